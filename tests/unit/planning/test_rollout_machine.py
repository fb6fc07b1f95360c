"""Roll-outs under random events in a hostile cluster: what holds after every write and at every second.

Nodes are full, pods die, Prometheus is silent, people press every button, passes crash half-way and decide on what is
no longer so. Nothing here knows how the operator decides; it knows what users may rely on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from planning_simulator import Cluster, expert, foundation

from recast_api.resources import Condition, ExpertModelStatus, MetricName, RolloutRequest
from recast_operator.planning.expert import plan_expert
from recast_operator.planning.rollout.traffic import ReplicaRatio, Target, split

IMAGES = ("server:1", "server:2", "server:3", "bad:1", "unpullable:1")
ROLLOUT: dict[str, Any] = {
    "steps": [{"setWeight": 25, "pause": "5s"}, {"setWeight": 60, "pause": "5s"}],
    "progressDeadlineSeconds": 60,
}


class RolloutMachine(RuleBasedStateMachine):
    @initialize(replicas=st.integers(1, 6), pilot=st.booleans())
    def begin(self, replicas: int, pilot: bool) -> None:
        fleet = {"pilots": ["reels"] if pilot else []}
        self.replicas = replicas
        self.cluster = Cluster(foundation(fleet=fleet), expert("reels", replicas=replicas, rollout=ROLLOUT))
        self.cluster.set_share("reels", "bad:1", MetricName.ERROR_RATE, 0.3)
        self.cluster.unpullable.add("unpullable:1")
        self.cluster.until(lambda c: c.em("reels").status.stable is not None)
        self.requests = 0
        self.until = 1
        self.reads: dict[str, str] = {}
        """By revision: the foundation Deployment that it reads."""
        self.note_what_is_read()

    # ---- what is seen

    @property
    def status(self) -> ExpertModelStatus:
        return self.cluster.em("reels").status

    def ready(self) -> dict[str, int]:
        return self.cluster.revision_ready("reels")

    def crowded(self) -> bool:
        """Somebody finds no node."""
        return any(len(entry.pods) < entry.replicas for entry in self.cluster.deployments.values())

    def failed(self) -> set[str]:
        bad = {entry.revision for entry in self.status.retiring if entry.failed}
        return bad | {entry.revision for entry in self.status.failed_revisions}

    def note_what_is_read(self) -> None:
        for entry in (self.status.stable, self.status.canary):
            if entry is not None:
                self.reads[entry.revision] = f"fm-{entry.foundation.name}-l{entry.foundation.lineage}"

    # ---- passes, each watched

    def act(self, crash_after: int | None = None, meanwhile: int = 0) -> None:
        """One pass over the expert; with ``meanwhile`` the world moves on between observation and writes."""
        cluster = self.cluster
        before, seen = self.status, self.ready()
        plan = cluster.plan("reels")
        if meanwhile:
            cluster.tick(meanwhile)
        then = {name: min(count, seen.get(name, 0)) for name, count in self.ready().items()}
        cluster.execute("reels", plan, crash_after=crash_after)
        self.no_pod_went_that_was_needed(then)
        self.note_what_is_read()
        if crash_after is None and not meanwhile:
            self.the_move_was_legal(before, seen)

    def no_pod_went_that_was_needed(self, before: dict[str, int]) -> None:
        after, failed = self.ready(), self.failed()
        serving = {entry.revision for entry in (self.status.stable, self.status.canary) if entry is not None}
        good = set(before) - failed if not self.crowded() else serving

        def total(ready: dict[str, int], who: set[str]) -> int:
            return sum(count for name, count in ready.items() if name in who)

        needed = self.replicas
        assert total(after, good) >= min(total(before, good), needed), "a ready pod went that nobody makes up for"
        if not self.crowded():
            half = (needed + 1) // 2
            assert sum(after.values()) >= min(sum(before.values()), half), "a failed revision's pods went too early"

    def the_move_was_legal(self, before: ExpertModelStatus, seen: dict[str, int]) -> None:
        after, one, two = self.status, before.canary, self.status.canary
        assert before.stable is not None
        assert after.stable is not None
        if after.stable.revision != before.stable.revision:
            assert seen.get(after.stable.revision, 0) >= self.replicas, "promoted before all its pods were ready"
            assert one is not None
            assert one.state == "Promoting"
            assert after.previous is not None
            assert after.previous.revision == before.stable.revision
        if one is None or two is None or one.revision != two.revision:
            return
        moved_on = two.step > one.step or two.state != one.state
        if moved_on and after.handled_requests == before.handled_requests:
            steps = ReplicaRatio().plan(self.cluster.em("reels").spec.rollout.steps, self.replicas)
            assert two.step <= one.step + 1, "a weight jumped over a step"
            assert two.state == one.state or one.step == len(steps) - 1, "promotion began before the last step"
            assert one.weight_since is not None, "a step passed before its weight had taken effect"
            assert two.serving.image != "bad:1", "a step passed that was scripted to fail"
            fresh = not self.cluster.prometheus_error and self.cluster.requests_per_second > 0
            known = bool(one.results) and all(entry.verdict == "Success" for entry in one.results)
            assert fresh or known, "a step passed on no data"
        if two.state == "Progressing":
            steps = ReplicaRatio().plan(self.cluster.em("reels").spec.rollout.steps, self.replicas)
            own, rest = split(self.replicas, steps[two.step].asked)
            stable, deployed = before.stable.revision, self.cluster.deployments
            if seen.get(stable, 0) >= rest:
                assert deployed[f"em-reels-{two.revision}"].replicas <= own, "more canary pods than its weight"
            if two.stable_down_since is None and two.step == one.step:
                assert deployed[f"em-reels-{stable}"].replicas >= rest, "stable has fewer pods than its share"

    # ---- events

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds: int) -> None:
        self.cluster.tick(seconds)

    @rule()
    def expert_pass(self) -> None:
        self.act()

    @rule(seconds=st.integers(1, 40))
    def smooth_sailing(self, seconds: int) -> None:
        for _ in range(seconds):
            self.cluster.tick()
            self.cluster.reconcile("home-fm")
            self.act()
            self.who_has_pods_has_a_foundation_to_read()

    @rule(writes=st.integers(0, 3))
    def expert_pass_that_crashes(self, writes: int) -> None:
        self.act(crash_after=writes)

    @rule(seconds=st.integers(1, 5))
    def expert_pass_on_a_stale_view(self, seconds: int) -> None:
        self.act(meanwhile=seconds)

    @rule()
    def foundation_pass(self) -> None:
        self.cluster.reconcile("home-fm")

    @rule(image=st.sampled_from(IMAGES))
    def the_image_is_changed(self, image: str) -> None:
        self.cluster.edit("reels", serving={"image": image, "replicas": self.replicas})

    @precondition(lambda self: self.until < 6)
    @rule()
    def more_data_make_a_new_foundation(self) -> None:
        self.until += 1
        claim = {"persistentVolumeClaim": {"claimName": "events"}, "path": "home"}
        self.cluster.edit("home-fm", data=claim | {"until": f"2026-0{self.until}-01T00:00:00Z"})

    def _expert_deployment(self, newest: bool) -> str | None:
        found = [name for name in self.cluster.deployments if name.startswith("em-reels-")]
        return found[-1 if newest else 0] if found else None

    @rule(limit=st.sampled_from([0, 1, 10_000]), newest=st.booleans())
    def pods_of_a_revision_break_or_heal(self, limit: int, newest: bool) -> None:
        name = self._expert_deployment(newest)
        if name is not None:
            self.cluster.deployments[name].ready_limit = limit

    @rule(pods=st.integers(1, 6), newest=st.booleans())
    def pods_of_a_revision_die(self, pods: int, newest: bool) -> None:
        name = self._expert_deployment(newest)
        if name is not None:
            self.cluster.kill(name, pods)

    @rule(spare=st.sampled_from([None, 0, 0, 1]))
    def nodes_come_or_fill_up(self, spare: int | None) -> None:
        self.cluster.room = None if spare is None else self.replicas + spare

    @rule(error=st.sampled_from(["", "", "connection refused"]), rate=st.sampled_from([0.0, 200.0, 200.0]))
    def prometheus_or_traffic_goes_or_comes_back(self, error: str, rate: float) -> None:
        self.cluster.prometheus_error, self.cluster.requests_per_second = error, rate

    @rule(action=st.sampled_from(["Abort", "Promote", "Retry"]), right=st.booleans())
    def a_person_asks(self, action: str, right: bool) -> None:
        status = self.status
        failed = [entry.revision for entry in status.failed_revisions]
        aim = (failed[-1] if failed else "") if action == "Retry" else (status.canary.revision if status.canary else "")
        self.requests += 1
        request = {"id": f"r{self.requests}", "action": action, "revision": aim if right and aim else "other"}
        body = self.cluster.em("reels").spec.rollout.wire()
        self.cluster.edit("reels", rollout=body | {"request": request})

    @precondition(lambda self: self.cluster.fm().status.candidate is not None)
    @rule()
    def the_candidate_is_rejected(self) -> None:
        number = self.cluster.fm().status.candidate.version  # type: ignore[union-attr]
        version = self.cluster.versions[f"fm-home-fm-v{number}"]
        verdict = Condition(
            type="Accepted", status="False", reason="PilotAnalysisFailed", last_transition_time="2026-11-21T00:00:00Z"
        )
        status = version.status.model_copy(update={"conditions": [verdict]})
        self.cluster.versions[version.metadata.name] = version.model_copy(update={"status": status})

    # ---- what always holds

    @invariant()
    def a_failed_revision_is_never_on_trial(self) -> None:
        if hasattr(self, "cluster"):
            canary = self.status.canary
            assert canary is None or canary.revision not in {entry.revision for entry in self.status.failed_revisions}

    @invariant()
    def weights_sum_to_a_hundred(self) -> None:
        if hasattr(self, "cluster"):
            endpoints = {entry.revision: entry for entry in self.cluster.observe_expert("reels").children.deployments}
            shares = ReplicaRatio().route(Target(self.replicas), endpoints).shares  # type: ignore[arg-type]
            assert sum(shares.values()) == (100 if sum(self.ready().values()) else 0)

    @invariant()
    def who_has_pods_has_a_foundation_to_read(self) -> None:
        if hasattr(self, "cluster"):
            for revision in self.cluster.observe_expert("reels").children.revisions_with_pods:
                assert self.reads[revision] in self.cluster.deployments, f"{revision} has lost {self.reads[revision]}"

    @invariant()
    def an_abort_is_legal_everywhere(self) -> None:
        canary = self.status.canary if hasattr(self, "cluster") else None
        if canary is None:
            return
        seen = self.cluster.observe_expert("reels")
        request = RolloutRequest(id="stop", action="Abort", revision=canary.revision)
        rollout = seen.model.spec.rollout.model_copy(update={"request": request})
        spec = seen.model.spec.model_copy(update={"rollout": rollout})
        after = plan_expert(replace(seen, model=seen.model.model_copy(update={"spec": spec})), self.cluster.now).status
        assert after.canary is None
        assert after.failed_revisions[-1].revision == canary.revision
        assert after.last_request is not None
        assert after.last_request.ignored == ""

    @invariant()
    def no_run_is_doubled_and_no_number_used_again(self) -> None:
        if not hasattr(self, "cluster"):
            return
        submitted = self.cluster.submitted
        assert len(submitted) == len(set(submitted))
        for model in ("em-reels", "fm-home-fm"):
            numbers = [int(name.split("-r")[-1].split("-a")[0]) for name in submitted if name.startswith(model)]
            assert numbers == sorted(numbers)
            jobs = [job for name, job in self.cluster.jobs.items() if name.startswith(model)]
            assert sum(1 for job in jobs if not job.observed.ended) <= 1

    @invariant()
    def what_status_remembers_is_bounded(self) -> None:
        if hasattr(self, "cluster"):
            assert len(self.status.handled_requests) <= 32
            assert len(self.status.retiring) <= 16
            assert len(self.status.failed_revisions) <= 16

    def teardown(self) -> None:
        """Whatever happened: left alone, it settles, and planning again changes nothing."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.settle()
        for name in cluster.models:
            assert not cluster.execute(name, cluster.plan(name))
        for entry in cluster.deployments.values():
            entry.ready_limit = 10_000
        if cluster.room is not None:
            cluster.room = max(cluster.room, self.replicas)
        cluster.run(150)
        failed = self.failed() - {self.status.canary.revision if self.status.canary else ""}
        assert not failed & set(self.ready()), f"a failed revision still has pods: {cluster.describe()}"


RolloutMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
TestRolloutsUnderRandomEvents = RolloutMachine.TestCase
