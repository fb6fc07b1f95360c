"""Who may refresh now: slots, their holders, and the queue."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_values import at, member, observed, pin, ref, unreadable

from recast_operator.planning.fleet.wave import holders, wave


def waits(name: str, since: float, **changes: Any) -> Any:
    return member(name, 1, refresh_since=at(since), **changes)


def test_pilots_go_first_then_who_has_waited_longest_then_by_name() -> None:
    experts = [waits("ads", 30), waits("feed", 10), waits("reels", 40), waits("alpha", 20), waits("beta", 10)]
    order = []
    for slots in range(1, 6):
        granted = wave(observed(*experts, pilots=["reels"], maxConcurrentRefreshes=slots), ref(2)).granted
        order += sorted(set(granted) - set(order))
    assert order == ["reels", "beta", "feed", "alpha", "ads"]


def test_those_who_wait_are_listed_in_their_order_and_counted_beyond_the_list() -> None:
    experts = [waits(f"e{number:02}", 100 - number) for number in range(25)]
    after = wave(observed(*experts, maxConcurrentRefreshes=2), ref(2))
    assert after.granted == ["e23", "e24"]
    assert after.waiting == [f"e{number:02}" for number in range(22, 2, -1)]
    assert (after.waiting_total, after.experts) == (23, 25)


@pytest.mark.parametrize(
    ("expert", "granted", "holds"),
    [
        (member("ads", 1), True, False),
        (waits("ads", 1), True, True),
        (waits("ads", 1), False, False),
        (member("ads", 1, training=True), True, True),
        (member("ads", 1, training=True), False, True),
        (member("ads", 1, canary=2), True, True),
        (member("ads", 1, canary=2), False, False),
        (member("ads", 1, canary=2, foundation="other-fm"), True, False),
        (waits("ads", 1, deleting=True), True, False),
        (unreadable("ads"), True, True),
        (unreadable("ads", pin(1)), False, False),
    ],
)
def test_a_slot_is_held_from_its_grant_until_the_refresh_is_over(expert: Any, granted: bool, holds: bool) -> None:
    seen = observed(expert, waits("feed", 5), granted=["ads"] if granted else [], maxConcurrentRefreshes=1)
    assert holders(seen) == (frozenset({"ads"}) if holds else frozenset())
    expected = ["ads"] if holds or (expert.refresh_since and not expert.deleting) else ["feed"]
    assert wave(seen, ref(2)).granted == expected


def test_fewer_slots_take_none_away_and_grant_none() -> None:
    seen = observed(
        waits("ads", 1), waits("feed", 2), waits("reels", 0), granted=["ads", "feed"], maxConcurrentRefreshes=1
    )
    after = wave(seen, ref(2))
    assert (after.granted, after.waiting) == (["ads", "feed"], ["reels"])


def test_who_reads_the_newest_version_is_counted_by_lineage() -> None:
    experts = [
        member("a", 2),
        member("b", pin(5, lineage=2)),
        member("c", 1),
        member("d"),
        member("e", pin(2, foundation="x")),
    ]
    assert wave(observed(*experts), ref(7, lineage=2)).on_newest == 2
    assert wave(observed(*experts), None).on_newest == 0
