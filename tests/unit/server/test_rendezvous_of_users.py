"""Users keep their replica; only those of a replica that came or went move; none is given much more than the others."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from recast_server.expert.rendezvous import LOAD_BOUND, choose, seed

ADDRESSES = st.lists(st.integers(0, 255).map(lambda i: f"10.0.0.{i}:9090"), min_size=1, max_size=12, unique=True)
USERS = st.integers(0, 2**63 - 1)


def chosen(user: int, addresses: list[str]) -> str:
    """At rest, when nothing is in flight."""
    return addresses[choose(user, [seed(address) for address in addresses], [0] * len(addresses))]


@given(USERS, ADDRESSES, st.integers(0, 255).map(lambda i: f"10.0.1.{i}:9090"))
def test_a_replica_that_comes_takes_users_from_others_and_moves_none_between_them(
    user: int, addresses: list[str], comes: str
) -> None:
    before, after = chosen(user, addresses), chosen(user, [*addresses, comes])
    assert after in {before, comes}


@given(USERS, ADDRESSES.filter(lambda addresses: len(addresses) > 1), st.data())
def test_when_a_replica_goes_only_its_own_users_move(user: int, addresses: list[str], data: st.DataObject) -> None:
    before, goes = chosen(user, addresses), data.draw(st.sampled_from(addresses))
    after = chosen(user, [address for address in addresses if address != goes])
    assert after == before or before == goes


@given(USERS, ADDRESSES, st.randoms())
def test_the_order_of_the_addresses_says_nothing(user: int, addresses: list[str], random: object) -> None:
    mixed = list(addresses)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert chosen(user, addresses) == chosen(user, mixed)


def test_consecutive_users_are_spread_evenly() -> None:
    addresses = [f"10.0.0.{i}:9090" for i in range(4)]
    shares = Counter(chosen(user, addresses) for user in range(8000))
    assert all(1800 < shares[address] < 2200 for address in addresses), shares


@given(USERS, st.lists(st.integers(0, 50), min_size=1, max_size=12), st.data())
def test_nobody_is_given_more_than_the_bound_and_the_highest_score_below_it_wins(
    user: int, in_flight: list[int], data: st.DataObject
) -> None:
    seeds = data.draw(
        st.lists(st.integers(0, 2**64 - 1), min_size=len(in_flight), max_size=len(in_flight), unique=True)
    )
    bound = math.ceil(LOAD_BOUND * sum(in_flight) / len(in_flight))
    place = choose(user, seeds, in_flight)
    assert in_flight[place] <= bound
    free = [other for other, calls in enumerate(in_flight) if calls <= bound]
    assert free[choose(user, [seeds[p] for p in free], [0] * len(free))] == place


@given(st.lists(USERS, min_size=1, max_size=200), st.integers(1, 6))
def test_calls_that_never_end_are_spread_within_the_bound_however_skewed_the_users(
    users: list[int], replicas: int
) -> None:
    seeds, in_flight = [seed(str(place)) for place in range(replicas)], [0] * replicas
    for user in users:
        in_flight[choose(user % 2, seeds, in_flight)] += 1
    assert max(in_flight) <= math.ceil(LOAD_BOUND * len(users) / replicas) + 1
    assert sum(in_flight) == len(users)


def test_scores_are_the_same_in_every_process() -> None:
    addresses = ["10.0.0.1:9090", "10.0.0.2:9090", "10.0.0.3:9090"]
    assert "".join(chosen(user, addresses)[7] for user in range(12)) == "212233322131"
