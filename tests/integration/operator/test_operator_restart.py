"""Whenever the operator dies, the world ends up the same.

The demo's flow is played once undisturbed. Then it is played again, several times side by side, and in each of these
plays the operator is cut down before or after every n-th of the writes that the first play made; together they cut at
each write, on both sides. Every play must end in the same state, having made each Job once, given each number once,
and having moved each expert's pods through the same sequence of weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import httpx
import pytest

from recast_operator.adapters.kube import HttpRequester
from tests.integration.operator.test_operator_flow import play_demo
from tests.integration.operator.world import World

PLAYS = 12
"""Each play cuts at every twelfth point, so that it has recovered from one cut before the next."""

Point = tuple[str, int, str]


def deal(writes: Iterable[tuple[str, int]], whens: tuple[str, ...], plays: int) -> list[frozenset[Point]]:
    """All points, dealt out to the plays."""
    points = [(label, occurrence, when) for label, occurrence in writes for when in whens]
    return [frozenset(points[first::plays]) for first in range(plays)]


async def play_with_cuts(
    requester: HttpRequester, admin: httpx.Client, namespace: str, whens: tuple[str, ...], plays: int
) -> tuple[World, list[World]]:
    """The undisturbed world, and the disturbed ones."""
    reference = World(requester, namespace)
    await play_demo(reference)
    worlds = []
    for number, cuts in enumerate(deal(reference.recorder.writes, whens, plays)):
        name = f"{namespace}-{number}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        admin.post("/api/v1/namespaces", json=body).raise_for_status()
        worlds.append(World(requester, name, cuts))
    await asyncio.gather(*(play_demo(world) for world in worlds))
    return reference, worlds


State = tuple[tuple[str, int], ...]
"""Pods wanted, by revision."""


def same_course(seen: list[State], expected: list[State]) -> bool:
    """The same states in the same order. A crash between two writes of one pass shows one of them without the other."""
    at = 0
    for state in seen:
        if at < len(expected) and state == expected[at]:
            at += 1
        elif not 0 < at < len(expected) or not _between(dict(state), dict(expected[at - 1]), dict(expected[at])):
            return False
    return at == len(expected)


def _between(state: dict[str, int], before: dict[str, int], after: dict[str, int]) -> bool:
    return all(
        state.get(revision, 0) in (before.get(revision, 0), after.get(revision, 0))
        for revision in state.keys() | before.keys() | after.keys()
    )


def compare(reference: World, worlds: list[World]) -> None:
    """Every world ended as the undisturbed one did, and came there by the same steps."""
    jobs, expected = sorted(reference.recorder.jobs_created), reference.end_state()
    for world in worlds:
        assert sorted(world.recorder.jobs_created) == jobs, "a second Job, or a second number"
        assert world.end_state() == expected
        for name, states in reference.weights.items():
            assert same_course(world.weights[name], states), f"a weight jump: {world.weights[name]} for {states}"
        assert world.dip == [], "fewer pods ready than the spec wants"


@pytest.mark.timeout(360)
async def test_a_crash_before_or_after_any_write_changes_nothing_in_the_end(
    requester: HttpRequester, namespace: str, admin: httpx.Client
) -> None:
    reference, worlds = await play_with_cuts(requester, admin, namespace, ("before", "after"), PLAYS)
    compare(reference, worlds)
    writes, crashes = len(reference.recorder.writes), sum(world.crashes for world in worlds)
    print(f"\n{writes} writes, {crashes} crashes")
    # A crash can save a status write that only says how far things are; such a point is then never reached.
    assert crashes >= 1.9 * writes


@pytest.mark.timeout(360)
async def test_an_answer_that_is_lost_on_the_way_is_never_taken_for_a_write_that_was_not_made(
    requester: HttpRequester, namespace: str, admin: httpx.Client
) -> None:
    reference, worlds = await play_with_cuts(requester, admin, namespace, ("lost",), 4)
    compare(reference, worlds)
    assert sum(len(world.recorder.left) for world in worlds) <= 0.1 * len(reference.recorder.writes)


async def test_the_undisturbed_play_has_the_canaries_that_the_comparison_is_about(
    requester: HttpRequester, namespace: str
) -> None:
    world = World(requester, namespace)
    await play_demo(world)
    splits = [tuple(count for _, count in state) for state in world.weights["reels"]]
    # First revision; canary 1 of 4, then 2 of 4, then all of it; then the bad one at 1 of 4, which goes at once.
    assert [sorted(split) for split in splits] == [
        [4], [1, 4], [1, 3], [2, 3], [2, 2], [2, 4], [4], [1, 4], [1, 3], [4]
    ]  # fmt: skip
