"""The whole loop in fake time: train → v1 → experts → v2 → waves → canary → promote → roll back → retire."""

from __future__ import annotations

import random

from planning_simulator import START, Cluster, expert, foundation

from recast_api.resources import MetricName

NAMES = ("reels", "feed", "ads")
DATA_2 = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home", "until": "2026-02-01T00:00:00Z"}


class Watch:
    """Invariants of every instant, checked after every second."""

    def __init__(self) -> None:
        self.most_runs = 0
        self.served: set[str] = set()

    def __call__(self, cluster: Cluster) -> None:
        refreshing = 0
        for name in NAMES:
            model = cluster.em(name)
            refreshing += model.status.run is not None
            if model.status.stable is not None:
                self.served.add(name)
            if name in self.served:
                self.enough_pods(cluster, name)
        self.most_runs = max(self.most_runs, refreshing)
        assert len(cluster.submitted) == len(set(cluster.submitted)), "a Job was submitted twice"

    def enough_pods(self, cluster: Cluster, name: str) -> None:
        """All of them; half of them once a canary has failed, until stable has grown back."""
        model, ready = cluster.em(name), cluster.revision_ready(name)
        needed = model.spec.serving.replicas
        least = (needed + 1) // 2 if model.status.failed_revisions else needed
        assert sum(ready.values()) >= least, f"{name} has only {ready} ready pods; {cluster.describe()}"


def demo(**fleet: object) -> Cluster:
    return Cluster(
        foundation(fleet={"maxConcurrentRefreshes": 2, **fleet}),
        expert("reels"),
        expert("feed"),
        expert("ads", replicas=2),
    )


def all_on(number: int) -> object:
    return lambda cluster: all(
        cluster.em(name).status.stable is not None
        and cluster.em(name).status.stable.foundation.version == number
        and cluster.em(name).status.canary is None
        for name in NAMES
    )


def reasons(cluster: Cluster, name: str) -> list[str]:
    return [event.reason for model, event in cluster.events if model == name]


def test_the_first_foundation_version_trains_is_served_and_every_expert_follows() -> None:
    cluster, watch = demo(), Watch()
    cluster.until(all_on(1), watch=watch)
    assert watch.most_runs == 2, "two slots: never three at once, and both are used"
    assert cluster.fm().status.summary.experts == "3/3 on v1"
    for name in NAMES:
        assert cluster.condition(name, "Ready").status == "True"
        assert cluster.condition(name, "Stale").status == "False"
        assert cluster.condition(name, "Reconciling").status == "False"
    assert "CanaryWeight" not in reasons(cluster, "reels"), "there is no canary where nothing is stable yet"


def test_a_new_foundation_version_makes_experts_stale_and_they_follow_through_a_canary() -> None:
    cluster, watch = demo(), Watch()
    cluster.until(all_on(1))
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.fm().status.current.version == 2)
    stale = {name for name in NAMES if cluster.condition(name, "Stale").status == "True"}
    assert stale == set(NAMES)
    waiting = cluster.condition("reels", "Ready")
    assert waiting.reason == "WaitingForSlot"
    assert "waits for one of 2 refresh slots" in waiting.message
    cluster.until(all_on(2), watch=watch)
    assert watch.most_runs == 2
    told = reasons(cluster, "reels")
    assert told.index("FoundationMajor") < told.index("CanaryWeight") < told.index("CanaryStep")
    assert cluster.em("reels").status.summary.stable == "v2@fm2"


def test_the_old_lineage_is_retired_once_nobody_pins_it_and_not_before() -> None:
    cluster = demo()
    cluster.until(all_on(1))
    cluster.edit("home-fm", data=DATA_2)

    def pinned_is_served(seen: Cluster) -> None:
        for name in NAMES:
            stable = seen.em(name).status.stable
            assert stable is not None
            assert f"fm-home-fm-l{stable.foundation.lineage}" in seen.deployments

    cluster.until(all_on(2), watch=pinned_is_served)
    cluster.run(30)
    assert sorted(name for name in cluster.deployments if name.startswith("fm-")) == ["fm-home-fm-l2"]
    assert "fm-home-fm-l1" not in {name for _, name in cluster.companions}
    assert cluster.versions["fm-home-fm-v1"].status.summary.state == "Retired"
    assert "LineageRetired" in reasons(cluster, "home-fm")


def test_pilots_go_first_and_hold_the_others_back_until_they_are_promoted() -> None:
    cluster = demo(pilots=["reels"])
    cluster.until(all_on(1))
    cluster.edit("home-fm", data=DATA_2)

    def others_wait(seen: Cluster) -> None:
        if seen.fm().status.current.version == 1:
            assert [name for name in ("feed", "ads") if seen.em(name).status.run] == []

    cluster.until(all_on(2), watch=others_wait)
    promoted = [name for name, event in cluster.events if event.reason == "Promoted" and "v2" in event.message]
    assert promoted[0] == "reels"
    assert promoted[1] == "home-fm"


def test_a_pilot_whose_analysis_fails_rejects_the_candidate_and_the_fleet_stays() -> None:
    cluster = demo(pilots=["reels"])
    cluster.until(all_on(1))
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    cluster.set_share("reels", "server:1", MetricName.ERROR_RATE, 0.2)
    cluster.until(lambda c: c.fm().status.candidate is None)
    cluster.shares.clear()
    cluster.run(120)
    assert cluster.fm().status.current.version == 1
    version = cluster.versions["fm-home-fm-v2"]
    assert version.status.conditions[0].reason == "PilotAnalysisFailed"
    assert "pilot reels" in version.status.conditions[0].message
    assert all_on(1)(cluster)
    assert cluster.condition("reels", "Stale").status == "False", "its target is the current version again"


def test_a_candidate_is_not_blamed_for_a_canary_whose_serving_changed_too() -> None:
    cluster = demo(pilots=["reels"])
    cluster.until(all_on(1))
    cluster.set_share("reels", "bad:1", MetricName.ERROR_RATE, 0.2)
    cluster.edit("home-fm", data=DATA_2)
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    cluster.edit("reels", serving={"image": "bad:1", "replicas": 4})
    cluster.until(lambda c: bool(c.em("reels").status.failed_revisions))
    cluster.run(120)
    assert cluster.fm().status.candidate.version == 2
    said = cluster.condition("home-fm", "Ready").message
    assert "reels rolled it back, but with a changed spec.serving" in said
    cluster.edit("reels", serving={"image": "server:1", "replicas": 4})
    cluster.until(lambda c: c.em("reels").status.canary is not None)
    cluster.until(lambda c: "changed spec.serving" not in c.condition("home-fm", "Ready").message)
    cluster.until(all_on(2))


def test_a_bad_serving_image_is_rolled_back_never_shrinks_stable_and_is_not_tried_again() -> None:
    cluster, watch = demo(), Watch()
    cluster.until(all_on(1), watch=watch)
    stable = cluster.em("reels").status.stable
    cluster.set_share("reels", "bad:1", MetricName.ERROR_RATE, 0.2)
    cluster.edit("reels", serving={"image": "bad:1", "replicas": 4})
    cluster.until(lambda c: bool(c.em("reels").status.failed_revisions), watch=watch)
    failed = cluster.em("reels").status.failed_revisions[0]
    assert failed.reason == "AnalysisFailed"
    assert failed.image == "bad:1"
    assert "error-rate 0.2" in failed.message
    assert "> 0.01 (" in failed.message
    assert 'recast_requests_total{namespace="demo"' in failed.results[0].query
    assert failed.results[0].samples > 0
    cluster.run(60, watch)
    assert cluster.em("reels").status.stable.revision == stable.revision
    assert list(cluster.revision_ready("reels")) == [stable.revision]
    assert cluster.condition("reels", "Stalled").reason == "AnalysisFailed"
    assert cluster.condition("reels", "Ready").status == "True"
    before = len(cluster.events)
    cluster.edit("reels", serving={"image": "bad:1", "replicas": 4})  # the same YAML again: only the generation moves
    cluster.run(120, watch)
    assert [event for name, event in cluster.events[before:] if name == "reels"] == []


def test_a_retry_request_tries_a_failed_revision_once_more() -> None:
    cluster = demo()
    cluster.until(all_on(1))
    cluster.set_share("reels", "bad:1", MetricName.ERROR_RATE, 0.2)
    cluster.edit("reels", serving={"image": "bad:1", "replicas": 4})
    cluster.until(lambda c: bool(c.em("reels").status.failed_revisions))
    cluster.shares.clear()
    revision = cluster.em("reels").status.failed_revisions[0].revision
    cluster.edit("reels", rollout={"request": {"id": "again", "action": "Retry", "revision": revision}})
    cluster.until(lambda c: c.em("reels").status.stable.revision == revision)
    assert cluster.em("reels").status.handled_requests == ["again"]
    assert cluster.em("reels").status.failed_revisions == []


def test_a_version_with_worse_ne_is_rejected_and_what_serves_goes_on() -> None:
    from planning_simulator import measured

    cluster, watch = demo(), Watch()
    cluster.until(all_on(1), watch=watch)
    cluster.landing = lambda run: [measured(0.95, 0.79, 0.15)]
    cluster.edit("ads", training={"image": "trainer:1", "learningRate": "0.9"})
    cluster.until(lambda c: c.em("ads").status.latest == 2, watch=watch)
    cluster.run(60, watch)
    assert cluster.em("ads").status.stable.version == 1
    assert cluster.em("ads").status.canary is None
    assert cluster.condition("ads", "Trained").reason == "NEIncreased"
    assert cluster.versions["em-ads-v2"].status.summary.state == "Rejected"
    assert cluster.submitted.count("em-ads-r2-a1") == 1
    assert "em-ads-r3-a1" not in cluster.submitted, "the same inputs are not trained again"


def test_a_finished_run_whose_job_is_gone_is_not_run_again() -> None:
    cluster = demo()
    cluster.job_ttl_seconds = 1
    cluster.until(all_on(1))
    cluster.run(120)
    assert cluster.jobs == {}
    assert sorted(cluster.submitted) == ["em-ads-r1-a1", "em-feed-r1-a1", "em-reels-r1-a1", "fm-home-fm-r1-a1"]


def test_time_alone_writes_nothing_once_all_is_settled() -> None:
    cluster = demo()
    cluster.until(all_on(1))
    cluster.run(40)
    writes = cluster.writes
    cluster.run(600)
    assert cluster.writes == writes


def test_the_loop_takes_about_as_long_as_training_pauses_and_start_up() -> None:
    cluster = demo()
    cluster.until(all_on(1))
    assert (cluster.now - START).total_seconds() < 120, "nothing waits for a resync or a deadline"


def test_a_crash_between_any_two_writes_ends_in_the_same_state() -> None:
    def finish(seed: int | None) -> Cluster:
        cluster, chance, edited = demo(), random.Random(seed), False
        while not all_on(2)(cluster):
            assert (cluster.now - START).total_seconds() < 3000, cluster.describe()
            cluster.tick()
            for name in sorted(cluster.models):
                plan = cluster.plan(name)
                crash = chance.choice([None, 0, 1, 2]) if seed is not None else None
                cluster.execute(name, plan, crash_after=crash)
            if all_on(1)(cluster) and not edited:
                cluster.edit("home-fm", data=DATA_2)
                edited = True
        cluster.run(40)
        return cluster

    calm = finish(None)
    for seed in (1, 2, 3):
        wild = finish(seed)
        assert sorted(wild.submitted) == sorted(calm.submitted), "no second Job, no second number"
        assert sorted(wild.deployments) == sorted(calm.deployments)
        assert {n: m.status.summary for n, m in wild.models.items()} == {
            n: m.status.summary for n, m in calm.models.items()
        }
