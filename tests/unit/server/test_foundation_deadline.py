"""A deadline of the hop that is not shorter than the expert's own objective is said, and changes nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fake_ranker import DIGEST, PIN
from prometheus_client import CollectorRegistry
from server_builders import a_scheduler

from recast_api.resources.expert import Task
from recast_api.server import ExpertServerConfig, ServedArtifact
from recast_server.expert.serve import ExpertServer
from recast_server.runtime.health import Health
from recast_server.runtime.loop_lag import LoopLag
from recast_server.runtime.process import Runtime


def configured(slo: int, foundation: int) -> ExpertServerConfig:
    return ExpertServerConfig(
        namespace="demo", model="reels", surface="reels", revision="r1", tasks=[Task(name="click")],
        artifact=ServedArtifact(root="/", path="em", version=1, lineage=1, digest=DIGEST), foundation=PIN,
        foundation_address="fm:1", slo_milliseconds=slo, foundation_deadline_milliseconds=foundation,
        max_connection_age_seconds=30,
    )  # fmt: skip


@pytest.mark.parametrize(("slo", "foundation", "said"), [(200, 199, False), (200, 200, True), (50, 100, True)])
def test_a_deadline_that_is_not_shorter_than_the_objective_is_said_when_the_server_starts(
    slo: int, foundation: int, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = a_scheduler()
    unused: Any = None
    ExpertServer(
        configured(slo, foundation), unused, Runtime(Health(scheduler), scheduler, CollectorRegistry(), LoopLag()), None
    )
    scheduler.close()
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == said
    assert all(f"({foundation}) is not shorter than sloMilliseconds ({slo})" in message for message in told)
