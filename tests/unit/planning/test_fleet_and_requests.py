from __future__ import annotations

from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation

from recast_operator.planning.fleet.lineages import UNPINNED_GRACE_SECONDS
from recast_operator.planning.status import messages

DATA_2 = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "until": "2026-02-01T00:00:00Z"}
DATA_3 = DATA_2 | {"until": "2026-03-01T00:00:00Z"}


def serving(**fleet: Any) -> Cluster:
    cluster = Cluster(foundation(fleet=fleet), *(expert(name) for name in ("ads", "feed", "reels")))
    cluster.until(lambda c: all(c.em(name).status.stable for name in ("ads", "feed", "reels")))
    return cluster


def test_slots_go_to_pilots_first_then_to_who_has_waited_longest() -> None:
    cluster = Cluster(foundation(fleet={"maxConcurrentRefreshes": 1, "pilots": ["reels"]}), expert("zoo"))
    cluster.until(lambda c: c.em("zoo").status.run is not None)
    for name in ("feed", "ads", "reels"):  # each asks later than the one before
        cluster.models[name] = expert(name)
        cluster.run(3)
    waits = {name: cluster.em(name).status.refresh.since for name in ("feed", "ads", "reels")}
    assert waits["feed"] < waits["ads"] < waits["reels"]
    assert cluster.fm().status.wave.waiting == ["reels", "feed", "ads"]
    cluster.until(lambda c: all(c.em(name).status.stable for name in ("ads", "feed", "reels")))
    granted = [event.message for _, event in cluster.events if event.reason == "SlotGranted"]
    assert [text.split()[0] for text in granted] == ["zoo", "reels", "feed", "ads"]


def test_a_slot_is_held_until_the_canary_is_promoted() -> None:
    cluster = serving(maxConcurrentRefreshes=1)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("ads").status.canary is not None)
    assert cluster.fm().status.wave.granted == ["ads"]
    assert cluster.fm().status.wave.waiting == ["feed", "reels"]
    reconciling = cluster.condition("home-fm", "Reconciling")
    assert (reconciling.status, reconciling.reason) == ("True", "RefreshInProgress")
    cluster.until(lambda c: c.em("ads").status.canary is None)
    cluster.settle()
    assert cluster.fm().status.wave.granted == ["feed"]


def test_the_last_refresh_is_still_a_refresh() -> None:
    cluster = serving(maxConcurrentRefreshes=1)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.wave.granted == ["reels"])
    assert cluster.fm().status.wave.waiting == []
    assert cluster.condition("home-fm", "Reconciling").status == "True"


def test_an_expert_that_cannot_refresh_gives_its_slot_back() -> None:
    cluster = serving(maxConcurrentRefreshes=1)
    cluster.edit("ads", suspend=True)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.wave.granted == ["feed"])
    assert "ads" not in cluster.fm().status.wave.waiting
    assert cluster.condition("ads", "Stale").status == "True"


def test_a_newer_version_supersedes_a_candidate_that_was_not_promoted() -> None:
    cluster = serving(pilots=["reels"])
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.candidate is not None)
    cluster.edit("home-fm", data=DATA_3)
    cluster.until(lambda c: c.fm().status.current.version == 3)
    cluster.until(lambda c: all(c.em(name).status.stable.foundation.version == 3 for name in ("ads", "feed", "reels")))
    cluster.run(30)
    assert [entry.lineage for entry in cluster.fm().status.lineages] == [3]


def test_pilots_that_do_not_exist_hold_nobody_back() -> None:
    cluster = serving(pilots=["nobody"])
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.current.version == 2, limit=60)


def test_a_lineage_is_kept_for_an_expert_that_was_pointed_elsewhere_but_still_reads_it() -> None:
    cluster = serving()
    cluster.edit("ads", foundationRef={"name": "other-fm"})
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(
        lambda c: (
            c.em("reels").status.stable.foundation.version == 2 and c.em("feed").status.stable.foundation.version == 2
        )
    )
    cluster.run(60)
    kept = {entry.lineage: (entry.pinned_by, entry.pins) for entry in cluster.fm().status.lineages}
    assert kept == {1: (["ads"], 1), 2: (["feed", "reels"], 2)}
    assert cluster.ready("fm-home-fm-l1") == 1
    del cluster.models["ads"]
    cluster.settle()
    assert cluster.plan("home-fm").requeue_after == UNPINNED_GRACE_SECONDS
    cluster.run(UNPINNED_GRACE_SECONDS - 1)
    assert cluster.plan("home-fm").requeue_after == 1
    assert cluster.ready("fm-home-fm-l1") == 1, "another expert may be about to pin it"
    cluster.run(1)
    assert "fm-home-fm-l1" not in cluster.deployments
    assert cluster.versions["fm-home-fm-v1"].status.summary.state == "Retired"


def test_an_abort_returns_all_traffic_to_stable_and_is_remembered() -> None:
    cluster = serving()
    cluster.edit("ads", serving={"image": "server:2", "replicas": 4})
    cluster.until(lambda c: c.em("ads").status.canary is not None and c.em("ads").status.canary.step == 1)
    revision = cluster.em("ads").status.canary.revision
    cluster.edit("ads", rollout={"request": {"id": "stop", "action": "Abort", "revision": revision}})
    cluster.run(30)
    status = cluster.em("ads").status
    assert (status.canary, status.failed_revisions[0].reason) == (None, "Aborted")
    assert cluster.revision_ready("ads") == {status.stable.revision: 4}


def test_a_promote_request_skips_the_steps_but_not_the_readiness() -> None:
    cluster = serving()
    cluster.run(20)
    cluster.ready_seconds = 10
    cluster.edit("ads", serving={"image": "server:2", "replicas": 4})
    cluster.settle()
    revision = cluster.em("ads").status.canary.revision
    cluster.edit("ads", rollout={"request": {"id": "go", "action": "Promote", "revision": revision}})
    cluster.run(5)
    assert cluster.em("ads").status.canary.state == "Promoting"
    assert sum(cluster.revision_ready("ads").values()) == 4
    cluster.until(lambda c: c.em("ads").status.stable.revision == revision, limit=30)


def test_more_replicas_in_the_middle_of_a_canary_skip_no_step() -> None:
    cluster = serving()
    cluster.edit("ads", serving={"image": "server:2", "replicas": 4})
    cluster.until(
        lambda c: c.em("ads").status.canary is not None and c.em("ads").status.canary.weight_since is not None
    )
    for replicas in (8, 2, 4):
        cluster.edit("ads", serving={"image": "server:2", "replicas": replicas})
        cluster.run(1)
        assert cluster.em("ads").status.canary.state == "Progressing"
    cluster.until(lambda c: c.em("ads").status.canary is None)
    assert cluster.revision_ready("ads") == {cluster.em("ads").status.stable.revision: 4}


def test_without_traffic_a_canary_waits_and_is_rolled_back_at_the_deadline() -> None:
    cluster = serving()
    cluster.requests_per_second = 0
    cluster.edit("ads", serving={"image": "server:2", "replicas": 4}, rollout={"progressDeadlineSeconds": 60})
    cluster.run(40)
    assert cluster.em("ads").status.canary.step == 0
    assert "no requests counted" in cluster.condition("ads", "Ready").message
    cluster.until(lambda c: bool(c.em("ads").status.failed_revisions), limit=60)
    assert cluster.em("ads").status.failed_revisions[0].reason == "ProgressDeadlineExceeded"


def test_a_spec_that_changes_in_mid_canary_drops_it_without_blame() -> None:
    cluster = serving()
    for image in ("server:2", "server:3", "server:1"):
        cluster.edit("ads", serving={"image": image, "replicas": 4})
        cluster.run(8)
    cluster.run(20)
    status = cluster.em("ads").status
    assert (status.canary, status.failed_revisions) == (None, [])
    assert list(cluster.revision_ready("ads")) == [status.stable.revision]


@pytest.mark.parametrize(
    ("names", "text"),
    [([], "nobody"), (["a"], "a"), (["a", "b"], "a and b"), (list("abcdefg"), "a, b, c, d, e and 2 more")],
)
def test_names_are_joined_as_people_do(names: list[str], text: str) -> None:
    assert messages.join(names) == text


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("home-fn", ["home-fm", "ads-fm"], 'did you mean "home-fm"?'),
        ("zzz", ["home-fm"], "create it or correct"),
        ("home-fm", [], "create it or correct"),
    ],
)
def test_a_wrong_name_is_answered_with_the_likely_one(name: str, known: list[str], words: str) -> None:
    text = messages.foundation_not_found(name, "demo", known)
    assert words in text
    assert text.endswith("Serving is unchanged.")


def test_a_candidate_says_first_that_its_servers_start_and_then_which_pilots_it_waits_for() -> None:
    cluster = Cluster(foundation(fleet={"pilots": ["reels"]}), expert("reels"))
    cluster.until(lambda c: c.em("reels").status.stable is not None)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.candidate is not None)
    assert cluster.condition("home-fm", "Ready").reason == "ServersStarting"
    cluster.run(cluster.ready_seconds + 1)
    waiting = cluster.condition("home-fm", "Ready")
    assert (waiting.reason, "reels" in waiting.message) == ("PilotsRefreshing", True)
