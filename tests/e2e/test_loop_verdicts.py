"""Real canaries failed by what they do, not by errors: too slow, or without the foundation's embeddings.

No image of its own is needed. A server that is to answer within a millisecond is slow at every request, and one that
gives its foundation a millisecond falls back at every request; both go on answering 200, so that only the metric that
is meant can tell. The two are tried at once, on two experts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from loop import Loop

from dev.demo import facts
from dev.demo.live import WaitError
from recast_api.resources import ExpertModel, FailedRevision, MetricName, Verdict
from recast_cli import words
from recast_cli.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.disruptive, pytest.mark.timeout(1200)]

SLOW, UNFRESH, OPEN = "reels", "ads", "feed"
FAILED_BY = {SLOW: MetricName.SLOW_SHARE, UNFRESH: MetricName.FRESH_TAE_SHARE}
PROMETHEUS = ("get", "service", "prometheus", "-n", "recast-monitoring", "-o", "jsonpath={.spec.clusterIP}")
NEVER_ENOUGH = {"steps": [{"setWeight": 50, "pause": "1s"}], "analysis": [{"metric": "error-rate", "max": "0.000001"}]}


def expert(world: World, name: str) -> ExpertModel:
    """The expert of that name."""
    found = world.expert(name)
    assert found is not None
    return found


def failed(world: World, name: str, before: int) -> FailedRevision | None:
    """The newest revision that was rolled back, since there were so many."""
    entries = expert(world, name).status.failed_revisions
    return entries[-1] if len(entries) > before else None


def at_rest(world: World, name: str) -> bool:
    """Whether the newest spec is what serves, with no version of it still to come."""
    found = expert(world, name)
    fresh = not words.holds(found.status.conditions, "Stale")
    return facts.observed(found) and fresh and facts.settled(world, name, 2)


def put_back(loop: Loop) -> None:
    """The three specs are the examples' again, and nothing of what another test changed is still under way."""
    loop.story.apply(*(f"{name}.yaml" for name in (SLOW, UNFRESH, OPEN)))
    loop.then(
        "the good specs serve, and nothing trains",
        lambda world: all(at_rest(world, name) for name in (SLOW, UNFRESH, OPEN)),
        within=180,
    )


@pytest.fixture(scope="module")
def on_trial(after_bad_change: Loop) -> Iterator[tuple[Loop, dict[str, int]]]:
    """Given experts at rest, when a slow, an un-fresh and a good but never proven revision are on trial at once."""
    loop = after_bad_change
    put_back(loop)
    before = {name: len(expert(loop.story.live.world, name).status.failed_revisions) for name in FAILED_BY}
    loop.when_applied(
        loop.example(f"{SLOW}.yaml", spec__serving__sloMilliseconds=1),
        loop.example(f"{UNFRESH}.yaml", spec__serving__foundationDeadlineMilliseconds=1),
        loop.example(f"{OPEN}.yaml", spec__serving__terminationGracePeriodSeconds=29, spec__rollout=NEVER_ENOUGH),
    )
    yield loop, before
    put_back(loop)


@pytest.mark.parametrize("name", list(FAILED_BY), ids=[str(metric) for metric in FAILED_BY.values()])
def test_a_real_canary_is_failed_by_the_metric_that_is_bad_and_by_no_other(
    on_trial: tuple[Loop, dict[str, int]], name: str
) -> None:
    loop, before = on_trial
    world = loop.then(f"{name} is rolled back", lambda world: failed(world, name, before[name]) is not None, within=240)
    entry = failed(world, name, before[name])
    assert entry is not None
    loop.story.bad_revisions.add(entry.revision)  # its answers are no sign of a fallback elsewhere
    assert entry.reason == "AnalysisFailed", entry.message
    failing = [result for result in entry.results if result.verdict is Verdict.FAILURE]
    assert [result.metric for result in failing] == [FAILED_BY[name]], entry.message
    assert failing[0].message in entry.message
    assert f'revision="{entry.revision}"' in failing[0].query
    assert failing[0].samples > 0
    stable = expert(world, name).status.stable
    assert stable is not None
    assert stable.revision != entry.revision
    assert (stable.serving.slo_milliseconds, stable.serving.foundation_deadline_milliseconds) == (1500, 1000)


def test_why_reads_the_figures_of_a_running_canary_live(on_trial: tuple[Loop, dict[str, int]]) -> None:
    loop, _ = on_trial
    address = loop.story.cluster.run(*PROMETHEUS).strip()
    kubeconfig = ["--kubeconfig", str(loop.story.cluster.kubeconfig), "-n", loop.story.cluster.namespace]
    asked = [sys.executable, "-m", "recast_cli.main", "why", OPEN, *kubeconfig]
    environment = {**os.environ, "no_proxy": address, "NO_PROXY": address}
    asked += ["--prometheus-url", f"http://{address}:9090"]
    said: list[str] = []

    def tells(world: World) -> bool:
        """A look that found fewer requests than the one before it is no answer, and the next one is."""
        if not counted(expert(world, OPEN)):
            return False
        done = subprocess.run(asked, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        return "error-rate Inconclusive" in done.stdout and "  now   0.0000, " in done.stdout

    try:
        loop.story.live.wait("why tells the figures", tells, 240)
    except WaitError as error:
        pytest.fail(f"{error}\n{said[-1] if said else 'nothing was counted'}")


def counted(found: ExpertModel) -> bool:
    """Whether requests to its canary stand in its status."""
    canary = found.status.canary
    return canary is not None and any(result.samples > 0 for result in canary.results)


def test_none_of_it_failed_a_request(on_trial: tuple[Loop, dict[str, int]]) -> None:
    """A slow answer and an answer without an embedding are answers."""
    loop, _ = on_trial
    bad = loop.story.bad_revisions
    assert [entry for entry in loop.story.traffic.counts.failures if entry["revision"] not in bad] == []
