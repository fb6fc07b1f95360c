"""Which change of an expert's status may wait for company: that of counts, and of nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation

from recast_api.resources import ExpertModelStatus
from recast_operator.planning.status.counts import only_counts_differ


def at_trial() -> ExpertModelStatus:
    cluster = Cluster(foundation(), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    cluster.edit("reels", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    return cluster.em("reels").status


def part(status: ExpertModelStatus, name: str, **update: Any) -> ExpertModelStatus:
    return status.model_copy(update={name: getattr(status, name).model_copy(update=update)})


STATUS = at_trial()


@pytest.mark.parametrize(
    "changed",
    [
        STATUS.model_copy(update={"replicas": 9}),
        part(STATUS, "stable", replicas=9),
        part(STATUS, "stable", ready_replicas=9),
        part(STATUS, "canary", replicas=9, ready_replicas=9, actual_weight=77),
        part(STATUS, "summary", weight="77%"),
    ],
)
def test_counts_alone_may_wait(changed: ExpertModelStatus) -> None:
    assert only_counts_differ(STATUS, changed)


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
        part(STATUS, "canary", message="other words"),
        part(STATUS, "stable", since="2026-01-01T00:00:00Z"),
        part(STATUS, "summary", canary="v9@fm9"),
        part(part(STATUS, "canary", actual_weight=77), "canary", step=1),
    ],
)
def test_nothing_else_waits_and_what_is_equal_is_no_change(changed: ExpertModelStatus) -> None:
    assert not only_counts_differ(STATUS, changed)
