"""How many pods each revision gets: tables of numbers, and what holds for all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recast_operator.planning.rollout.capacity import ROOM_SECONDS, Surge
from recast_operator.planning.rollout.traffic import Endpoints, Leaving, Target, split


def pods(target: Target, **endpoints: tuple[int, ...]) -> dict[str, int]:
    return Surge().pods(target, {name: Endpoints(*entry) for name, entry in endpoints.items()})


def target(weight: int = 25, *, replicas: int = 4, stable: str = "s", canary: str = "c", **changes: Any) -> Target:
    return Target(replicas, stable, canary, weight, **changes)


SETTLED = target(0, canary="")
FIRST = target(100, stable="")


@pytest.mark.parametrize(
    ("wanted", "endpoints", "expected"),
    [
        (SETTLED, {}, {"s": 4}),
        (SETTLED, {"s": (4, 4)}, {"s": 4}),
        (Target(4), {}, {}),
        (FIRST, {}, {"c": 4}),
        (FIRST, {"c": (4, 2)}, {"c": 4}),
        # Stable shrinks by the ready canary pods alone.
        (target(), {"s": (4, 4)}, {"s": 4, "c": 1}),
        (target(), {"s": (4, 4), "c": (1, 0)}, {"s": 4, "c": 1}),
        (target(), {"s": (4, 4), "c": (1, 1)}, {"s": 3, "c": 1}),
        (target(50), {"s": (3, 3), "c": (1, 1)}, {"s": 3, "c": 2}),
        (target(50), {"s": (3, 3), "c": (2, 2)}, {"s": 2, "c": 2}),
        (target(100), {"s": (2, 2), "c": (2, 2)}, {"s": 2, "c": 4}),
        (target(100), {"s": (2, 2), "c": (4, 3)}, {"s": 1, "c": 4}),
        (target(100), {"s": (1, 1), "c": (4, 4)}, {"s": 0, "c": 4}),
        # Stable is short of a pod: nothing else changes.
        (target(), {"s": (3, 2), "c": (1, 1)}, {"s": 3, "c": 1}),
        # A canary with more pods than its weight gives them back as stable gets ready.
        (target(), {"s": (2, 2), "c": (2, 2)}, {"s": 3, "c": 2}),
        (target(), {"s": (3, 3), "c": (2, 2)}, {"s": 3, "c": 1}),
        (target(), {"s": (3, 1), "c": (4, 4)}, {"s": 3, "c": 3}),
        (target(), {"s": (3, 1), "c": (4, 2)}, {"s": 3, "c": 2}),
    ],
)
def test_ready_endpoints_come_before_weight_and_weight_before_shrinking(
    wanted: Target, endpoints: dict[str, tuple[int, ...]], expected: dict[str, int]
) -> None:
    assert pods(wanted, **endpoints) == expected


@pytest.mark.parametrize(
    ("seconds", "endpoints", "expected"),
    [
        (0, {"s": (3, 0), "c": (1, 0)}, {"s": 4, "c": 4}),
        (0, {"s": (3, 0), "c": (4, 1)}, {"s": 3, "c": 4}),
        (99, {"s": (3, 0), "c": (4, 4)}, {"s": 3, "c": 4}),
        (ROOM_SECONDS - 1, {"s": (3, 0), "c": (4, 1, 3)}, {"s": 3, "c": 4}),
        (ROOM_SECONDS, {"s": (3, 0), "c": (4, 1, 3)}, {"s": 0, "c": 4}),
        (ROOM_SECONDS, {"s": (3, 0), "c": (4, 3, 1)}, {"s": 0, "c": 4}),
        (ROOM_SECONDS, {"s": (3, 0), "c": (4, 3, 0)}, {"s": 3, "c": 4}),
    ],
)
def test_with_stable_down_the_canary_gets_all_and_stable_makes_room_where_there_is_none(
    seconds: float, endpoints: dict[str, tuple[int, ...]], expected: dict[str, int]
) -> None:
    assert pods(target(stable_down_seconds=seconds), **endpoints) == expected


GOOD, BAD = Leaving(), Leaving(failed=True)


@pytest.mark.parametrize(
    ("wanted", "leaving", "endpoints", "kept"),
    [
        # Replaced: kept up to R in all, never growing.
        (SETTLED, GOOD, {"s": (4, 2), "old": (2, 2)}, 2),
        (SETTLED, GOOD, {"s": (4, 3), "old": (2, 2)}, 1),
        (SETTLED, GOOD, {"s": (4, 4), "old": (2, 2)}, 0),
        (SETTLED, GOOD, {"s": (4, 0), "old": (4, 1)}, 1),
        (SETTLED, GOOD, {"s": (4, 0), "old": (1, 2)}, 1),
        (SETTLED, GOOD, {"s": (6, 6), "old": (2, 2)}, 0),
        (FIRST, GOOD, {"c": (4, 1), "old": (4, 4)}, 3),
        (target(50), GOOD, {"s": (2, 2), "c": (2, 1), "old": (2, 2)}, 1),
        (target(50), GOOD, {"s": (2, 2), "c": (3, 3), "old": (2, 2)}, 0),
        # Failed: kept up to half of R in all, and not at all where nobody takes over.
        (SETTLED, BAD, {"s": (4, 3), "old": (1, 1)}, 0),
        (SETTLED, BAD, {"s": (4, 2), "old": (2, 2)}, 0),
        (SETTLED, BAD, {"s": (4, 1), "old": (3, 3)}, 1),
        (SETTLED, BAD, {"s": (4, 0), "old": (4, 4)}, 2),
        (SETTLED, BAD, {"s": (4, 0), "old": (4, 1)}, 1),
        (target(0, replicas=5, canary=""), BAD, {"s": (5, 0), "old": (5, 5)}, 3),
        (target(0, replicas=1, canary=""), BAD, {"s": (1, 0), "old": (1, 1)}, 1),
        (target(50), BAD, {"s": (2, 0), "c": (2, 1), "old": (4, 4)}, 1),
        (FIRST, BAD, {"c": (4, 0), "old": (4, 4)}, 0),
        (Target(4), BAD, {"old": (4, 4)}, 0),
        # No room: one rung for each time that those who should serve find no node, and none of them is starting.
        (SETTLED, Leaving(False, ROOM_SECONDS - 1), {"s": (4, 0, 4), "old": (4, 4)}, 4),
        (SETTLED, Leaving(False, ROOM_SECONDS), {"s": (4, 0, 4), "old": (4, 4)}, 2),
        (SETTLED, Leaving(False, 2 * ROOM_SECONDS), {"s": (4, 0, 4), "old": (4, 4)}, 0),
        (SETTLED, Leaving(False, 9 * ROOM_SECONDS), {"s": (4, 0, 4), "old": (4, 4)}, 0),
        (SETTLED, Leaving(False, ROOM_SECONDS), {"s": (4, 0, 3), "old": (4, 4)}, 4),
        (SETTLED, Leaving(False, ROOM_SECONDS), {"s": (4, 0, 0), "old": (4, 4)}, 4),
        (SETTLED, Leaving(True, ROOM_SECONDS - 1), {"s": (4, 0, 4), "old": (4, 4)}, 2),
        (SETTLED, Leaving(True, ROOM_SECONDS), {"s": (4, 0, 4), "old": (4, 4)}, 0),
        (SETTLED, Leaving(True, ROOM_SECONDS), {"s": (4, 0, 3), "old": (4, 4)}, 2),
        (target(50), Leaving(True, ROOM_SECONDS), {"s": (2, 0, 2), "c": (2, 1), "old": (4, 4)}, 1),
        (target(50), Leaving(True, ROOM_SECONDS), {"s": (2, 0, 2), "c": (2, 1, 1), "old": (4, 4)}, 0),
    ],
)
def test_who_left_keeps_what_is_still_needed(
    wanted: Target, leaving: Leaving, endpoints: dict[str, tuple[int, ...]], kept: int
) -> None:
    changed = Target(wanted.replicas, wanted.stable, wanted.canary, wanted.weight, leaving={"old": leaving})
    assert pods(changed, **endpoints)["old"] == kept


def test_pods_of_who_was_replaced_spare_those_of_who_failed() -> None:
    wanted = target(0, canary="", leaving={"a": BAD, "b": GOOD})
    assert pods(wanted, s=(4, 0), a=(4, 4), b=(4, 1)) == {"s": 4, "a": 1, "b": 1}
    assert pods(wanted, s=(4, 0), a=(4, 4), b=(4, 2)) == {"s": 4, "a": 0, "b": 2}


def test_of_two_who_were_replaced_no_more_than_all_are_kept() -> None:
    assert pods(target(0, canary=""), s=(4, 1), a=(2, 2), b=(2, 2)) == {"s": 4, "a": 2, "b": 1}


@pytest.mark.parametrize(
    ("wanted", "endpoints", "expected"),
    [
        (SETTLED, {"s": (4, 2)}, None),
        (target(0, canary="", leaving={"old": Leaving(False, 10)}), {"s": (4, 2, 2), "old": (2, 2)}, 20),
        (target(0, canary="", leaving={"old": Leaving(False, 40)}), {"s": (4, 2, 2), "old": (2, 2)}, 20),
        (target(0, canary="", leaving={"old": Leaving(False, 60)}), {"s": (4, 2, 2), "old": (2, 2)}, None),
        (target(0, canary="", leaving={"old": Leaving(True, 10)}), {"s": (4, 2, 2), "old": (2, 2)}, 20),
        (target(0, canary="", leaving={"old": Leaving(True, 40)}), {"s": (4, 2, 2), "old": (2, 2)}, None),
        (target(0, canary="", leaving={"old": Leaving(False, 10)}), {"s": (4, 2, 1), "old": (2, 2)}, None),
        (target(0, canary="", leaving={"old": Leaving(False, 10)}), {"s": (4, 2, 2), "old": (0, 0)}, None),
        (target(0, canary="", leaving={"old": Leaving(False, 10)}), {"s": (4, 2, 2)}, None),
        (target(stable_down_seconds=12), {"s": (3, 0), "c": (4, 1, 3)}, 18),
        (target(stable_down_seconds=12), {"s": (3, 0), "c": (4, 1)}, None),
        (target(stable_down_seconds=30), {"s": (3, 0), "c": (4, 1, 3)}, None),
    ],
)
def test_time_is_waited_for_only_where_it_makes_room(
    wanted: Target, endpoints: dict[str, tuple[int, ...]], expected: float | None
) -> None:
    assert Surge().next_change(wanted, {name: Endpoints(*entry) for name, entry in endpoints.items()}) == expected


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Target, dict[str, Endpoints]]:
    replicas = draw(st.integers(1, 12))
    names = draw(st.sets(st.sampled_from(["s", "c", "x", "y"]), min_size=1))
    endpoints = {}
    for name in names:
        ready = draw(st.integers(0, replicas))
        endpoints[name] = Endpoints(draw(st.integers(ready, replicas)), ready)
    left = {name: Leaving(draw(st.booleans())) for name in ("x", "y")}
    wanted = Target(replicas, "s", draw(st.sampled_from(["", "c"])), draw(st.integers(1, 100)), leaving=left)
    return wanted, endpoints


@settings(deadline=None)
@given(scenes())
def test_our_own_doing_never_takes_ready_pods_below_all_nor_below_half_where_one_failed(
    scene: tuple[Target, dict[str, Endpoints]],
) -> None:
    wanted, endpoints = scene
    after = Surge().pods(wanted, endpoints)
    ready = {name: entry.ready for name, entry in endpoints.items()}
    left = {name: min(count, after[name]) for name, count in ready.items()}
    good = [name for name in ready if not wanted.leaving.get(name, GOOD).failed]
    assert sum(left[name] for name in good) >= min(sum(ready[name] for name in good), wanted.replicas)
    assert sum(left.values()) >= min(sum(ready.values()), (wanted.replicas + 1) // 2)


@settings(deadline=None)
@given(scenes())
def test_stable_never_gets_less_than_its_share_and_who_left_never_grows(
    scene: tuple[Target, dict[str, Endpoints]],
) -> None:
    wanted, endpoints = scene
    after = Surge().pods(wanted, endpoints)
    assert after["s"] >= (split(wanted.replicas, wanted.weight)[1] if wanted.canary else wanted.replicas)
    for name in set(endpoints) - {wanted.stable, wanted.canary}:
        assert after[name] <= endpoints[name].replicas
    assert set(after) == set(endpoints) | {"s"} | ({"c"} if wanted.canary else set())


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 24), st.booleans(), st.integers(0, 12))
def test_with_any_room_at_all_stable_gets_it_in_the_end(replicas: int, room: int, failed: bool, old: int) -> None:
    """Whoever has a node is ready ten seconds later; who left gives way, the sooner the more it harms."""
    leaving, stable = min(old, room), 0
    for seconds in range(0, 5 * ROOM_SECONDS, 10):
        scheduled = min(replicas, room - leaving)
        seen = {"s": Endpoints(replicas, stable, replicas - scheduled), "old": Endpoints(leaving, leaving)}
        leaving = Surge().pods(Target(replicas, "s", leaving={"old": Leaving(failed, seconds)}), seen)["old"]
        stable = scheduled
    assert (stable, leaving) == (min(replicas, room), 0)
