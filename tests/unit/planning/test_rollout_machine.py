"""Rollouts under random events: what must hold after every single write, whatever came before."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from planning_simulator import Cluster, expert, foundation

from recast_api.resources import Condition, MetricName
from recast_operator.planning.rollout.steps import plan_steps

IMAGES = ("server:1", "server:2", "server:3", "bad:1", "unpullable:1")


class RolloutMachine(RuleBasedStateMachine):
    @initialize(replicas=st.integers(1, 6), pilot=st.booleans())
    def begin(self, replicas: int, pilot: bool) -> None:
        rollout = {
            "steps": [{"setWeight": 25, "pause": "5s"}, {"setWeight": 60, "pause": "5s"}],
            "progressDeadlineSeconds": 60,
        }
        fleet = {"pilots": ["reels"] if pilot else []}
        self.replicas = replicas
        self.cluster = Cluster(foundation(fleet=fleet), expert("reels", replicas=replicas, rollout=rollout))
        self.cluster.set_share("reels", "bad:1", MetricName.ERROR_RATE, 0.3)
        self.cluster.unpullable.add("unpullable:1")
        self.cluster.until(lambda c: c.em("reels").status.stable is not None)
        self.requests = 0
        self.until = 1

    def total(self) -> int:
        return sum(self.cluster.revision_ready("reels").values())

    def act(self, crash_after: int | None = None, meanwhile: int = 0) -> None:
        """One pass over the expert; with ``meanwhile`` the world moves on between observation and writes."""
        cluster = self.cluster
        before, seen = cluster.em("reels").status, self.total()
        plan = cluster.plan("reels")
        if meanwhile:
            cluster.tick(meanwhile)
        ready = min(seen, self.total())
        cluster.execute("reels", plan, crash_after=crash_after)
        after = cluster.em("reels").status
        assert self.total() >= min(ready, self.replicas), "our own writes took ready pods below what is needed"
        if crash_after is None and not meanwhile and after.stable.revision != before.stable.revision:
            promoted = self.cluster.revision_ready("reels").get(after.stable.revision, 0)
            assert promoted >= self.replicas, "a revision became stable before all its pods were ready"
        one, two = before.canary, after.canary
        if one is not None and two is not None and one.revision == two.revision:
            assert two.step <= one.step + 1, "a weight jumped over a step"
            if two.state != one.state and after.handled_requests == before.handled_requests:
                last = len(plan_steps(cluster.em("reels").spec.rollout.steps, self.replicas)) - 1
                assert one.step == last, "promotion began before the last step"
            if two.step > one.step:
                assert one.weight_since is not None, "a step passed before its weight had taken effect"

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

    @rule(limit=st.sampled_from([0, 1, 10_000]), newest=st.booleans())
    def pods_of_a_revision_break_or_heal(self, limit: int, newest: bool) -> None:
        found = [entry for name, entry in self.cluster.deployments.items() if name.startswith("em-reels-")]
        if found:
            found[-1 if newest else 0].ready_limit = limit

    @rule(action=st.sampled_from(["Abort", "Promote", "Retry"]), right=st.booleans())
    def a_person_asks(self, action: str, right: bool) -> None:
        status = self.cluster.em("reels").status
        failed = [entry.revision for entry in status.failed_revisions]
        aim = (failed[-1] if failed else "") if action == "Retry" else (status.canary.revision if status.canary else "")
        self.requests += 1
        request = {"id": f"r{self.requests}", "action": action, "revision": aim if right and aim else "other"}
        body = self.cluster.em("reels").spec.rollout.wire()
        self.cluster.edit("reels", rollout=body | {"request": request})

    @precondition(lambda self: self.cluster.fm().status.candidate is not None)
    @rule()
    def the_candidate_is_rejected(self) -> None:
        number = self.cluster.fm().status.candidate.version
        version = self.cluster.versions[f"fm-home-fm-v{number}"]
        verdict = Condition(
            type="Accepted", status="False", reason="PilotAnalysisFailed", last_transition_time="2026-11-21T00:00:00Z"
        )
        status = version.status.model_copy(update={"conditions": [verdict]})
        self.cluster.versions[version.metadata.name] = version.model_copy(update={"status": status})

    @invariant()
    def a_failed_revision_is_never_on_trial(self) -> None:
        if not hasattr(self, "cluster"):
            return
        status = self.cluster.em("reels").status
        assert status.canary is None or status.canary.revision not in {
            entry.revision for entry in status.failed_revisions
        }

    @invariant()
    def no_run_is_doubled_and_no_number_used_again(self) -> None:
        if not hasattr(self, "cluster"):
            return
        submitted = self.cluster.submitted
        assert len(submitted) == len(set(submitted))
        for model in ("em-reels", "fm-home-fm"):
            numbers = [int(name.split("-r")[-1].split("-a")[0]) for name in submitted if name.startswith(model)]
            assert numbers == sorted(numbers)
            active = [
                job for name, job in self.cluster.jobs.items() if name.startswith(model) and not job.observed.ended
            ]
            assert len(active) <= 1

    @invariant()
    def the_canary_has_no_more_pods_than_its_step(self) -> None:
        if not hasattr(self, "cluster"):
            return
        model = self.cluster.em("reels")
        canary = model.status.canary
        if canary is None or canary.state != "Progressing":
            return
        deployment = self.cluster.deployments.get(f"em-reels-{canary.revision}")
        step = plan_steps(model.spec.rollout.steps, self.replicas)[canary.step]
        assert deployment is None or len(deployment.pods) <= max(step.canary, 0) or canary.weight_since is None

    @invariant()
    def requests_are_remembered_within_bounds(self) -> None:
        if hasattr(self, "cluster"):
            assert len(self.cluster.em("reels").status.handled_requests) <= 32

    def teardown(self) -> None:
        """Whatever happened: left alone, it settles, and planning again changes nothing."""
        if hasattr(self, "cluster"):
            self.cluster.settle()
            for name in self.cluster.models:
                assert not self.cluster.execute(name, self.cluster.plan(name))


RolloutMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
TestRolloutsUnderRandomEvents = RolloutMachine.TestCase
