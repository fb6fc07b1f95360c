"""Which change of a status may wait for company: what is only looked at, and nothing that decides."""

from __future__ import annotations

from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation

from recast_api.resources import (
    ExpertModelStatus,
    MetricResult,
    ModelVersionStatus,
    RetiringRevision,
    RunStatus,
    Verdict,
)
from recast_api.resources.version import VersionSummary
from recast_operator.planning.status.deferral import may_wait, only_counted


def at_trial() -> ExpertModelStatus:
    cluster = Cluster(foundation(), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    return cluster.em("reels").status


def part(status: ExpertModelStatus, name: str, **update: Any) -> ExpertModelStatus:
    return status.model_copy(update={name: getattr(status, name).model_copy(update=update)})


def condition(**update: Any) -> ExpertModelStatus:
    first, *others = STATUS.conditions
    return STATUS.model_copy(update={"conditions": [first.model_copy(update=update), *others]})


def with_run(state: str, **update: Any) -> ExpertModelStatus:
    run = RunStatus(number=2, job_name="em-reels-r2-a1", inputs_hash="a", started_at="2026-01-01T00:00:00Z")
    return STATUS.model_copy(update={"run": run.model_copy(update={"state": state, **update})})


STATUS = at_trial()
RESULT = MetricResult(metric="error-rate", verdict=Verdict.SUCCESS, time="2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "changed",
    [
        STATUS.model_copy(update={"replicas": 9}),
        part(STATUS, "stable", replicas=9),
        part(STATUS, "stable", ready_replicas=9),
        part(STATUS, "canary", replicas=9, ready_replicas=9, actual_weight=77),
        part(STATUS, "summary", weight="77%"),
        part(STATUS, "canary", results=[RESULT], measured_weight="49.0"),
        condition(message="other words"),
    ],
)
def test_what_is_only_looked_at_may_wait(changed: ExpertModelStatus) -> None:
    assert may_wait(STATUS, changed)


@pytest.mark.parametrize(
    "changed",
    [
        STATUS,
        STATUS.model_copy(update={"canary": None}),
        STATUS.model_copy(update={"stable": None}),
        STATUS.model_copy(update={"conditions": STATUS.conditions[1:]}),
        STATUS.model_copy(update={"last_number": 99}),
        part(STATUS, "canary", weight_since="2026-01-01T00:00:00Z"),
        part(STATUS, "canary", desired_weight=99),
        condition(reason="Other"),
        condition(status="Unknown"),
        condition(observed_generation=99),
        with_run("Running"),
        part(STATUS, "canary", message="other words"),
        part(STATUS, "stable", since="2026-01-01T00:00:00Z"),
        part(STATUS, "summary", canary="v9@fm9"),
        part(part(STATUS, "canary", actual_weight=77), "canary", step=1),
    ],
)
def test_nothing_else_waits_and_what_is_equal_is_no_change(changed: ExpertModelStatus) -> None:
    assert not may_wait(STATUS, changed)


def test_that_a_revision_is_gone_may_wait_and_that_one_leaves_may_not() -> None:
    assert STATUS.stable is not None
    first, second = (
        RetiringRevision(revision=name, version=1, foundation=STATUS.stable.foundation, since="2026-01-01T00:00:00Z")
        for name in ("a", "b")
    )
    both, one, other, none = (
        STATUS.model_copy(update={"retiring": entries}) for entries in ([first, second], [first], [second], [])
    )
    assert may_wait(both, one)
    assert may_wait(one, none)
    assert not may_wait(none, one)
    assert not may_wait(one, both)
    assert not may_wait(one, other)


def test_that_a_submitted_run_was_seen_may_wait_and_its_end_may_not() -> None:
    assert may_wait(with_run("Reserved"), with_run("Running"))
    assert not may_wait(with_run("Reserved"), with_run("Running", attempt=2))
    assert not may_wait(with_run("Reserved"), with_run("BackingOff"))
    assert not may_wait(with_run("Running"), with_run("BackingOff"))
    assert not may_wait(with_run("Running"), STATUS)


def counted(used_by: int | None, state: str = "Accepted", generation: int = 1) -> ModelVersionStatus:
    summary = VersionSummary(state=state, ne="0.7", used_by=used_by)
    return ModelVersionStatus(observed_generation=generation, summary=summary)


@pytest.mark.parametrize(
    ("before", "after", "may"),
    [
        (counted(1), counted(2), True),
        (counted(None), counted(0), True),
        (counted(1), counted(1), False),
        (counted(1), counted(0, state="Retired"), False),
        (counted(1), counted(2, generation=2), False),
    ],
)
def test_by_how_many_a_version_is_read_may_wait_and_what_it_is_may_not(
    before: ModelVersionStatus, after: ModelVersionStatus, may: bool
) -> None:
    assert only_counted(before, after) is may
