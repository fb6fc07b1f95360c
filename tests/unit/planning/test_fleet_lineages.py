"""Which lineages have servers, what they serve, and when they go."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fleet_values import at, landed, lineage, member, observed, pin, ref, servers, unreadable
from planning_simulator import START

from recast_operator.planning.fleet import lineages as rules
from recast_operator.planning.fleet.lineages import busiest, grace_left, lineages, pins, retired, used_by

NOW = START + timedelta(seconds=100)


def served(seen: Any, *judged: Any, leading: Any = ()) -> dict[int, int]:
    return {entry.lineage: entry.version for entry in lineages(seen, judged, leading, NOW)}


@pytest.mark.parametrize(
    ("before", "versions", "stable", "expected"),
    [
        (None, [(2, True)], pin(2), 2),
        (None, [(2, False)], pin(2), None),
        (None, [], pin(2), None),
        (2, [(2, True), (3, True)], pin(2), 3),
        (2, [(2, True), (3, False)], pin(2), 2),
        (2, [(2, True), (3, False), (4, True)], pin(2), 4),
        (2, [(2, True), (3, False)], pin(3, lineage=2), 2),
        (3, [(2, True), (3, False)], pin(2), 2),
        (3, [(2, True), (3, False)], pin(3, lineage=2), 3),
        (3, [(2, True), (3, False), (4, True)], pin(3, lineage=2), 4),
        (3, [(2, False), (3, False)], pin(2), 3),
        (3, [], pin(2), 3),
        (2, [(2, False)], pin(2), 2),
    ],
)
def test_a_lineage_serves_its_newest_accepted_version_and_never_less_than_a_reader_needs(
    before: int | None, versions: list[tuple[int, bool]], stable: Any, expected: int | None
) -> None:
    judged = [landed(number, accepted=accepted, lineage=2) for number, accepted in versions]
    known = [lineage(2, version=before)] if before else []
    after = served(observed(member("ads", stable), lineages=known), *judged, landed(9, lineage=9))
    assert after == ({} if expected is None else {2: expected})


def test_a_version_of_another_model_is_never_served() -> None:
    foreign = landed(3, lineage=2)
    foreign = type(foreign)(foreign.version, False, False, "UnknownRun", "another's", False)
    assert served(observed(member("ads", 2)), landed(2), foreign) == {2: 2}


@pytest.mark.parametrize(
    ("experts", "leading", "kept"),
    [
        ([member("ads", 1)], [], True),
        ([member("ads", 2, canary=1)], [], True),
        ([member("ads", 2, retiring=(pin(1),))], [], True),
        ([member("ads", 1, foundation="other-fm")], [], True),
        ([member("ads", 1, deleting=True)], [], True),
        ([unreadable("ads", pin(1))], [], True),
        ([unreadable("ads", pin(2))], [], True),
        ([unreadable("ads")], [], True),
        ([member("ads", pin(1, foundation="other-fm"))], [], False),
        ([member("ads", 2)], [], False),
        ([], [], False),
        ([], [ref(1)], True),
        ([], [ref(2), ref(1)], True),
        ([], [ref(2)], False),
    ],
)
def test_a_lineage_is_kept_for_who_reads_it_leads_with_it_or_cannot_be_read(
    experts: list[Any], leading: list[Any], kept: bool
) -> None:
    for since in (None, 0.0, 85.0, 99.0):
        seen = observed(*experts, lineages=[lineage(1, unpinned=since)])
        after = [entry for entry in lineages(seen, [landed(1), landed(2)], leading, NOW) if entry.lineage == 1]
        over = since is not None and since <= 85.0
        assert len(after) == (0 if over and not kept else 1)
        if kept:
            assert after[0].unpinned_since is None
        elif after:
            assert after[0].unpinned_since == at(100.0 if since is None else since)


def test_the_next_look_at_an_unpinned_lineage_is_due_when_its_grace_is_over() -> None:
    assert grace_left(lineage(1, unpinned=90), NOW) == 5
    assert grace_left(lineage(1), NOW) is None


def test_a_clock_that_was_set_back_does_not_lengthen_the_grace() -> None:
    seen = observed(lineages=[lineage(1, unpinned=5000)])
    assert lineages(seen, [landed(1)], [], NOW)[0].unpinned_since == at(100)


def test_pins_are_counted_once_an_expert_and_by_the_version_that_is_read() -> None:
    seen = observed(
        member("ads", 1, canary=2, retiring=(pin(1), pin(3, lineage=2))),
        member("feed", 2),
        unreadable("reels", pin(2), pin(9, foundation="other-fm")),
    )
    assert pins(seen) == {1: ("ads",), 2: ("ads", "feed", "reels")}
    assert used_by(seen) == {1: 1, 2: 3, 3: 1}


def test_an_entry_shows_its_servers_and_the_first_of_those_who_read_it() -> None:
    experts = [member(f"e{number:02}", 1) for number in range(30)]
    seen = observed(*experts, deployments=[servers(1, replicas=3, ready=2), servers(2)])
    (entry,) = lineages(seen, [landed(1)], [], NOW)
    assert (entry.replicas, entry.ready_replicas, entry.pins) == (3, 2, 30)
    assert entry.pinned_by == [f"e{number:02}" for number in range(20)]


def test_no_more_lineages_than_may_be_and_never_without_one_that_leads_or_serves() -> None:
    experts = [member(f"e{number}", number) for number in range(1, 21)]
    known = [lineage(number) for number in range(3, 18)]
    judged = [landed(number) for number in range(1, 21)]
    after = served(observed(*experts, lineages=known), *judged, leading=[ref(20)])
    assert sorted(after) == [*range(3, 18), 20]
    assert len(after) == rules.MAX_LINEAGES


@pytest.mark.parametrize(
    ("experts", "current", "serving", "gone"),
    [
        ([], ref(3), [lineage(3)], {1, 2}),
        ([], ref(3), [lineage(2), lineage(3)], {1}),
        ([], ref(2), [lineage(2)], {1}),
        ([], ref(2), [], {1}),
        ([], None, [], set()),
        ([unreadable("ads")], ref(3), [lineage(3)], set()),
    ],
)
def test_versions_retire_when_a_newer_one_leads_and_their_lineage_has_no_servers(
    experts: list[Any], current: Any, serving: list[Any], gone: set[int]
) -> None:
    judged = [landed(1), landed(2), landed(3), landed(4, accepted=False)]
    assert retired(observed(*experts), judged, current, serving) == gone


@pytest.mark.parametrize(
    ("pinned", "current", "expected"),
    [
        ({}, None, None),
        ({3: 0}, None, 3),
        ({1: 5, 2: 2}, 2, 1),
        ({1: 2, 2: 5}, 1, 2),
        ({1: 4, 2: 4}, 1, 1),
        ({1: 4, 2: 4}, 2, 2),
        ({1: 4, 2: 4, 3: 0}, 3, 2),
    ],
)
def test_an_autoscaler_sees_the_pods_of_the_lineage_that_most_experts_read(
    pinned: dict[int, int], current: int | None, expected: int | None
) -> None:
    entries = [lineage(number).model_copy(update={"pins": count}) for number, count in pinned.items()]
    found = busiest(entries, ref(current) if current else None)
    assert (found.lineage if found else None) == expected
