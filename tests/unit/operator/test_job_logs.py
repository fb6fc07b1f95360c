"""Logs of a training run's pods, read once or followed, from an apiserver that shows them as late as it likes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from run_builders import Scripted
from torchx.schedulers.api import Stream

from recast_operator.adapters import job_logs
from recast_operator.adapters.errors import Invalid, NotFound, Transient
from recast_operator.adapters.job_logs import finished
from recast_operator.adapters.job_scheduler import JobScheduler

PODS = "GET /api/v1/namespaces/demo/pods"
LOG = "GET /api/v1/namespaces/demo/pods/j-0-abc/log"
JOB = "GET /apis/batch/v1/namespaces/demo/jobs/j"
NONE: dict[str, Any] = {"items": []}
WAITING = Invalid("container is waiting to start: ContainerCreating", status=400)


def pod(phase: str) -> tuple[str, Any]:
    return PODS, {"items": [{"metadata": {"name": "j-0-abc"}, "status": {"phase": phase}}]}


def job(kind: str = "", status: str = "True") -> tuple[str, Any]:
    return JOB, {"metadata": {}, "status": {"conditions": [{"type": kind, "status": status}]} if kind else {}}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, without sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(job_logs.time, "sleep", slept.append)
    return slept


def read(api: Scripted, **more: Any) -> list[str]:
    return list(JobScheduler("", api).log_iter("demo:j", "trainer", **more))


def follow(*script: tuple[str, Any]) -> list[str]:
    api = Scripted(*script)
    lines = read(api, should_tail=True)
    api.finish()
    return lines


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded", "Failed"])
def test_read_once_the_log_is_what_there_is_with_the_half_line_at_its_end(phase: str) -> None:
    api = Scripted(pod(phase), (LOG, "one\ntwo\r2\nthr"))
    assert read(api, k=3) == ["one\n", "two\r2\n", "thr"]
    pods, log = api.finish()
    selector = "batch.kubernetes.io/job-name=j,batch.kubernetes.io/job-completion-index=3"
    assert pods.params == {"labelSelector": selector}
    assert (log.text, log.params) == (True, {})


def test_lines_are_chosen_by_a_pattern_and_an_instant() -> None:
    api = Scripted(pod("Succeeded"), (LOG, "one\ntwo\n"))
    since = datetime(2026, 11, 21, tzinfo=UTC)
    assert read(api, regex="^tw", since=since) == ["two\n"]
    assert api.finish()[1].params == {"sinceTime": "2026-11-21T00:00:00+00:00"}


def test_read_once_a_pod_that_is_not_there_has_no_lines_and_one_that_waits_says_so() -> None:
    assert read(Scripted((PODS, NONE))) == []
    assert read(Scripted(pod("Running"), (LOG, NotFound("just deleted")))) == []
    with pytest.raises(Invalid, match="waiting to start"):
        read(Scripted(pod("Pending"), (LOG, WAITING)))


def test_following_gives_each_whole_line_once_and_ends_with_the_pod(pauses: list[float]) -> None:
    assert follow(
        pod("Running"), (LOG, "one\ntw"), pod("Running"), (LOG, "one\ntwo\n"), pod("Running"), (LOG, "one\ntwo\n"),
        pod("Succeeded"), (LOG, "one\ntwo\nend without newline"),
    ) == ["one\n", "two\n", "end without newline"]  # fmt: skip
    assert pauses == [1.0, 1.0, 1.0]


def test_following_waits_for_a_pod_and_for_its_container(pauses: list[float]) -> None:
    assert follow(
        (PODS, NONE), job(), pod("Pending"), (LOG, WAITING), pod("Running"), (LOG, NotFound("not yet")),
        pod("Failed"), (LOG, "died\n"),
    ) == ["died\n"]  # fmt: skip
    assert len(pauses) == 3


@pytest.mark.parametrize("end", [job("Complete"), job("Failed"), (JOB, NotFound("gone"))])
def test_following_ends_where_no_pod_will_come(pauses: list[float], end: tuple[str, Any]) -> None:
    assert follow((PODS, NONE), end) == []
    assert pauses == []


def test_following_ends_where_the_pod_goes_after_its_lines(pauses: list[float]) -> None:
    assert follow(pod("Running"), (LOG, "one\n"), (PODS, NONE), job("Failed")) == ["one\n"]


def test_a_log_that_the_kubelet_rotated_is_told_from_its_new_beginning(pauses: list[float]) -> None:
    assert follow(pod("Running"), (LOG, "one\ntwo\n"), pod("Succeeded"), (LOG, "3\n")) == ["one\n", "two\n", "3\n"]


def test_an_error_of_the_apiserver_ends_the_lines_as_what_it_is(pauses: list[float]) -> None:
    with pytest.raises(Transient, match="away"):
        follow(pod("Running"), (LOG, Transient("away")))
    with pytest.raises(Invalid, match="waiting"):  # it has ended: what does it wait for?
        follow(pod("Failed"), (LOG, WAITING))


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"streams": Stream.STDERR}, "combined"),
        ({"streams": Stream.STDOUT}, "combined"),
        ({"until": datetime(2026, 11, 21, tzinfo=UTC)}, "leave until away"),
        ({"since": datetime(2026, 11, 21)}, "aware"),
    ],
)
def test_what_kubernetes_cannot_give_is_refused_before_anything_is_asked(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(Scripted(), **wish)
    assert read(Scripted((PODS, NONE)), streams=Stream.COMBINED) == []


@pytest.mark.parametrize("app_id", ["no-colon", ":name", "namespace:", ""])
def test_an_app_id_is_a_namespace_and_a_name(app_id: str) -> None:
    with pytest.raises(ValueError, match=re.escape("<namespace>:<name>")):
        JobScheduler("", Scripted()).log_iter(app_id, "trainer")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, False),
        ({"conditions": None}, False),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, True),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, True),
        ({"conditions": [{"type": "Failed", "status": "False"}, {"type": "Suspended", "status": "True"}]}, False),
        ({"conditions": [{"type": "FailureTarget", "status": "True"}]}, False),
    ],
)
def test_a_job_has_come_to_its_end_when_a_condition_says_so(status: dict[str, Any], expected: bool) -> None:
    assert finished({"status": status}) is expected
    assert finished({}) is False
