"""Whether an expert asks for a refresh: of which version it is asked, and whether anything can be done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_values import at
from planning_simulator import START, digest_of, expert, foundation, measured
from run_values import run

from recast_api.resources import (
    CanaryStatus,
    ExpertModel,
    FoundationPin,
    ModelReference,
    ModelVersion,
    ModelVersionSpec,
    RevisionStatus,
    Training,
)
from recast_api.resources.expert import RefreshStatus
from recast_api.resources.version import TrainingRunRef
from recast_operator.planning.freshness.refresh import RefreshDecision, RefreshInputs, decide
from recast_operator.planning.freshness.target import FoundationTarget, foundation_target
from recast_operator.planning.projections import foundation_view
from recast_operator.planning.snapshot import ObservedExpert
from recast_operator.planning.training.inputs import TrainingInputs, expert_inputs
from recast_operator.planning.training.state import TrainingState
from recast_operator.planning.versions.verdict import Judged

FM = "home-fm"


def pin(version: int) -> FoundationPin:
    return FoundationPin(name=FM, version=version, lineage=version, digest=digest_of(FM, version))


def version(kind: Any, model: str, number: int, **spec: Any) -> ModelVersion:
    prefix = "fm" if kind == "FoundationModel" else "em"
    body = ModelVersionSpec(
        model=ModelReference(kind=kind, name=model, uid=f"uid-{model}"),
        number=number,
        lineage=number,
        digest=digest_of(model, number),
        path="p",
        watermark="2026-01-01T00:00:00Z",
        measurements=[measured()],
        **spec,
    )
    meta = {"name": f"{prefix}-{model}-v{number}", "namespace": "demo"}
    return ModelVersion.model_validate({"metadata": meta, "spec": body.wire()})


def judged(number: int, reads: int, model: ExpertModel | None = None, **spec: Any) -> Judged:
    """An accepted version of the expert, trained from the spec of ``model`` with that foundation version."""
    made = expert_inputs((model or expert("reels")).spec, pin(reads).digest)
    ref = TrainingRunRef(job_name=f"em-reels-r{number}-a1", inputs_hash=made)
    found = version("ExpertModel", "reels", number, foundation=pin(reads), run=ref, **spec)
    return Judged(found, True, True, "GatesPassed", "m", False)


def revision(number: int, reads: int, kind: type[RevisionStatus] = RevisionStatus, **fields: Any) -> Any:
    return kind(
        revision=f"r{number}",
        version=number,
        digest=digest_of("reels", number),
        path="p",
        foundation=pin(reads),
        serving=expert("reels").spec.serving,
        since=at(0),
        **fields,
    )


def on_trial(number: int, reads: int) -> CanaryStatus:
    found: CanaryStatus = revision(number, reads, CanaryStatus, progressed_at=at(0))
    return found


def decision(
    *versions: Judged,
    current: int = 2,
    stable: RevisionStatus | None = None,
    canary: CanaryStatus | None = None,
    model: ExpertModel | None = None,
    asked: float | None = None,
    **changes: Any,
) -> RefreshDecision:
    model = model or expert("reels")
    fm = foundation()
    digest = changes.pop("digest", pin(current).digest)
    ref = {"version": current, "lineage": current, "digest": digest, "since": at(0)}
    fm = fm.model_copy(update={"status": type(fm.status).model_validate({"current": ref})})
    refresh = (
        RefreshStatus(reason="FoundationMajor", since=at(asked), foundation_version=2) if asked is not None else None
    )
    model = model.model_copy(update={"status": model.status.model_copy(update={"stable": stable, "refresh": refresh})})
    seen = ObservedExpert(
        model=model,
        foundations={FM: foundation_view(fm, "reels")},
        foundation_versions=tuple(version("FoundationModel", FM, number) for number in (1, 2)),
    )
    target = changes.pop("target", foundation_target(seen))
    unreadable = changes.pop("unreadable", frozenset())
    wanted = expert_inputs(model.spec, target.version.spec.digest) if target.version else None
    training = TrainingInputs(
        "ExpertModel", "reels", "uid-reels", Training(image="t:1"), wanted, (), versions, START,
        serving=stable.version if stable else 0, suspended=changes.pop("suspended", False),
    )  # fmt: skip
    inputs = RefreshInputs(
        replace(seen, unreadable_foundations=unreadable),
        target,
        training,
        TrainingState(changes.pop("run", None), 9, "", ()),
        stable,
        canary,
        changes.pop("blocked", False),
    )
    assert not changes
    return decide(inputs)


V1 = judged(1, reads=1)
OTHER = expert("reels", training={"image": "trainer:2"})
TWO_TASKS = expert("reels", tasks=[{"name": "click"}, {"name": "like"}], refresh={"triggers": []})


@pytest.mark.parametrize(
    ("versions", "state", "reason", "asks"),
    [
        ([], {}, "NoVersionYet", True),
        ([V1], {"stable": revision(1, 1)}, "FoundationMajor", True),
        ([V1], {"stable": revision(1, 1), "current": 1}, None, False),
        ([V1], {"stable": revision(1, 1), "current": 1, "model": OTHER}, "TrainingSpecChanged", True),
        ([V1], {"stable": revision(1, 1), "suspended": True}, "FoundationMajor", False),
        ([V1], {"stable": revision(1, 1), "suspended": True, "run": run()}, "FoundationMajor", True),
        ([V1], {"stable": revision(1, 1), "target": FoundationTarget(None)}, None, False),
        ([V1], {"stable": revision(1, 1), "digest": digest_of("restored")}, None, False),
        ([V1, judged(2, 2)], {"stable": revision(1, 1)}, "FoundationMajor", True),
        ([V1, judged(2, 3)], {"stable": revision(1, 1), "suspended": True}, "FoundationMajor", False),
        ([V1, judged(2, 2)], {"stable": revision(1, 1), "suspended": True}, "FoundationMajor", True),
        ([V1, judged(2, 2)], {"stable": revision(1, 1), "blocked": True}, "FoundationMajor", False),
        ([V1, judged(2, 2)], {"stable": revision(1, 1), "canary": on_trial(2, 2)}, None, False),
        ([V1, judged(2, 2)], {"stable": revision(2, 2)}, None, False),
        ([V1, judged(2, 2)], {"stable": revision(2, 2), "canary": on_trial(1, 1)}, "FoundationMajor", False),
        ([judged(1, 2)], {}, None, False),
        ([V1], {}, "FoundationMajor", True),
        ([V1, judged(2, 2)], {}, None, False),
        ([judged(1, 2, OTHER), judged(2, 2)], {}, None, False),
        ([judged(1, 2)], {"model": TWO_TASKS}, "NoVersionYet", True),
        ([judged(1, 2, tasks=["click", "like"])], {"model": TWO_TASKS}, None, False),
        ([judged(1, 2)], {"model": TWO_TASKS, "stable": revision(1, 2)}, None, False),
    ],
)
def test_an_expert_asks_while_it_is_stale_and_something_can_be_done(
    versions: list[Judged], state: dict[str, Any], reason: str | None, asks: bool
) -> None:
    after = decision(*versions, **state)
    assert (after.violation.reason if after.violation else None) == reason
    assert (after.refresh is not None) is asks
    if after.refresh is not None:
        assert (after.refresh.reason, after.refresh.since) == (reason, at(0))
        assert after.refresh.foundation_version == state.get("current", 2)


@pytest.mark.parametrize(("asked", "since"), [(None, 0), (-60, -60), (60, 0)])
def test_it_has_waited_since_it_asked_first_and_never_since_a_time_to_come(asked: float | None, since: float) -> None:
    after = decision(V1, stable=revision(1, 1), asked=asked)
    assert after.refresh is not None
    assert after.refresh.since == at(since)


def test_what_waits_for_a_foundation_that_cannot_be_read_keeps_its_place() -> None:
    blind = {"target": FoundationTarget(None), "unreadable": frozenset({FM})}
    kept = decision(V1, stable=revision(1, 1), asked=-60, **blind).refresh
    assert kept is not None
    assert kept.since == at(-60)
    assert decision(V1, stable=revision(1, 1), **blind).refresh is None
    elsewhere = {"target": FoundationTarget(None), "unreadable": frozenset({"other-fm"})}
    assert decision(V1, stable=revision(1, 1), asked=-60, **elsewhere).refresh is None
