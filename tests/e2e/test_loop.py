"""The whole loop on a real node: train, land, accept, serve, refresh, canary, promote, roll back, reject, retire."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
from loop import Loop

from dev.demo import facts, show
from dev.demo.story import FRESH_TAE_MIN
from dev.demo.traffic import Counts
from recast_api import names
from recast_cli import words

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
EXPERTS = ("reels", "feed", "ads")


def ask(loop: Loop, expert: str, body: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    """One request from outside of the cluster."""
    address = show.service_address(loop.story.cluster, expert)
    request = urllib.request.Request(f"http://{address}/v1/rank", data=json.dumps(body).encode(), method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, json.loads(error.read() or b"{}")


def checked(loop: Loop, name: str) -> None:
    """The story's judgement of that name holds."""
    check = next(check for check in loop.story.checks if check.name.startswith(name))
    assert check.ok, str(check)


def test_a_foundation_is_trained_by_an_indexed_job_of_two_workers_and_accepted(first: Loop) -> None:
    job = json.loads(first.kubectl("get", "job", names.job("FoundationModel", "home-fm", 1, 1), "-o", "json"))
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 2)
    assert job["status"]["succeeded"] == 2
    version = facts.version(first.story.live.world, "FoundationModel", "home-fm", 1)
    assert version is not None
    assert words.holds(version.status.conditions, "Accepted")
    assert {entry.surface for entry in version.spec.measurements} >= set(EXPERTS)


@pytest.mark.parametrize("expert", EXPERTS)
def test_an_expert_ranks_candidates_with_a_fresh_embedding_of_its_foundation(first: Loop, expert: str) -> None:
    status, headers, body = ask(first, expert, {**first.story.questions[expert][0], "limit": 4})
    assert status == 200
    assert headers[names.HEADER_TAE] == "fresh"
    assert body["foundation"]["name"] == "home-fm"
    scores = [item["score"] for item in body["items"]]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "body",
    [
        {"user": 1, "candidates": []},
        {"user": 1, "candidates": list(range(10_000))},
        {"user": "one", "candidates": [1]},
        {"candidates": [1]},
        {"user": 1, "candidates": [float("nan")]},
        [],
    ],
    ids=["empty", "ten-thousand", "wrong-type", "no-user", "nan", "not-an-object"],
)
def test_a_bad_request_is_the_clients_error(first: Loop, body: Any) -> None:
    status, headers, _ = ask(first, "reels", body)
    assert 400 <= status < 500
    assert headers[names.HEADER_REVISION]


def test_an_unknown_user_and_unknown_items_are_answered(first: Loop) -> None:
    known = first.story.questions["reels"][0]["candidates"][0]
    status, _, body = ask(first, "reels", {"user": 10**9, "candidates": [known, 10**9]})
    assert status == 200
    assert body["unknownItems"] == [10**9]


def test_every_expert_follows_a_new_lineage_at_most_two_at_a_time(second: Loop) -> None:
    checked(second, "experts refreshed at most two at a time")
    world = second.story.live.world
    assert facts.current(world, "home-fm") == 2
    for name in EXPERTS:
        expert = world.expert(name)
        assert expert is not None
        assert expert.status.stable is not None
        assert expert.status.stable.foundation.version == 2


def test_a_bad_image_is_rolled_back_with_reason_query_and_value_in_status(after_bad_change: Loop) -> None:
    checked(after_bad_change, "the bad image was rolled back")


def test_the_same_yaml_does_not_try_a_failed_revision_again(after_bad_change: Loop) -> None:
    checked(after_bad_change, "applying the same YAML again")


def test_a_worse_foundation_is_rejected_and_never_serves_and_no_expert_is_trained_for_it(
    after_bad_change: Loop,
) -> None:
    checked(after_bad_change, "the gate rejected the worse version")
    world = after_bad_change.story.live.world
    worse = facts.rejected(world, "home-fm", 2)
    assert worse is not None
    assert facts.current(world, "home-fm") == 2
    pins = [version.spec.foundation for name in EXPERTS for version in world.versions_of("ExpertModel", name)]
    assert {pin.version for pin in pins if pin} == {1, 2}


def test_a_foundation_that_nobody_pins_is_retired(after_bad_change: Loop) -> None:
    left = after_bad_change.kubectl("get", "deployments,services", "-o", "name")
    assert names.lineage_server("home-fm", 1) not in left
    assert names.lineage_server("home-fm", 2) in left


def test_no_request_failed_but_those_of_the_bad_revision(after_bad_change: Loop, counts: Counts) -> None:
    bad = after_bad_change.story.bad_revisions
    outside = [failure for failure in counts.failures if failure["revision"] not in bad]
    assert outside == []
    assert counts.failed(bad) > 0
    assert counts.not_sent == 0


def test_a_fallback_did_not_hide_a_failure(after_bad_change: Loop, counts: Counts) -> None:
    assert counts.fresh_share(after_bad_change.story.bad_revisions) >= FRESH_TAE_MIN


def test_the_plugin_tells_the_same_story(after_bad_change: Loop) -> None:
    kubeconfig = str(after_bad_change.story.cluster.kubeconfig)
    connection = ["--kubeconfig", kubeconfig, "-n", after_bad_change.story.cluster.namespace]
    status, why = plugin("status", *connection), plugin("why", "reels", *connection)
    assert "home-fm   current v2" in status
    assert "reels  (surface reels)" in status
    assert "Rolled back" in why
    assert "query" in why


def plugin(*arguments: str) -> str:
    """Standard output of ``kubectl recast``."""
    done = subprocess.run([sys.executable, "-m", "recast_cli.main", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
