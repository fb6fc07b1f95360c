"""``ExpertModel``: one surface's light model, when it refreshes, and how a new revision takes over its traffic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from recast_api.base import (
    Decimal,
    Digest,
    Duration,
    Identifier,
    Message,
    Reason,
    Short,
    Status,
    Timestamp,
    Wire,
    rules,
)
from recast_api.resources.common import NAME_RULES, Conditions, Data, Gates, ModelMeta, ModelRef, Training
from recast_api.resources.run import Failures, RunStatus
from recast_api.resources.serving import ExpertServing
from recast_api.resources.version import FoundationPin


class MetricName(StrEnum):
    """What an analysis can judge, each measured by Prometheus and selected by revision."""

    ERROR_RATE = "error-rate"
    SLOW_SHARE = "slow-share"
    FRESH_TAE_SHARE = "fresh-tae-share"


class Verdict(StrEnum):
    """What one metric says of a canary. NoData and Inconclusive never count as Success."""

    SUCCESS = "Success"
    FAILURE = "Failure"
    INCONCLUSIVE = "Inconclusive"
    NO_DATA = "NoData"


class Task(Wire):
    """A label that the surface's data carry, and its share in the ranking score."""

    name: Identifier
    weight: Decimal = "1"


class ExpertArchitecture(Wire):
    """The expert's own light network beside the TAE."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.dim % self.heads == 0", "dim must be a multiple of heads"))
    )

    layers: Annotated[int, Field(ge=1, le=8)] = 1
    dim: Annotated[int, Field(ge=8, le=1024)] = 32
    heads: Annotated[int, Field(ge=1, le=16)] = 2
    history_length: Annotated[int, Field(ge=4, le=512)] = Field(
        default=32, description="Recent events of this surface that the expert reads itself."
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError("dim must be a multiple of heads")
        return self


Policy = Literal["FoundationMajor", "SpecChange"]


def _both_policies() -> list[Policy]:
    return ["FoundationMajor", "SpecChange"]


class Refresh(Wire):
    """What makes the served version stale. The first version is always trained."""

    triggers: Annotated[
        list[Policy],
        Field(max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = Field(default_factory=_both_policies, description="The first that holds is the reason.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.triggers)) != len(self.triggers):
            raise ValueError("refresh.triggers must not repeat one")
        return self


class Step(Wire):
    """One step of a canary: a share of traffic, held until its analysis succeeds and at least for the pause."""

    set_weight: Annotated[int, Field(ge=1, le=100)]
    pause: Duration = "10s"


class AnalysisMetric(Wire):
    """One judgement of the canary. Exactly one bound; a comparison with stable only where both serve at once."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "[has(self.max), has(self.min), has(self.maxOverStable)].filter(x, x).size() == 1",
                "give exactly one of max, min and maxOverStable",
            ),
            (
                "self.metric != 'fresh-tae-share' || has(self.min)",
                "fresh-tae-share is a share that must not fall: give min",
            ),
            (
                "self.metric == 'fresh-tae-share' || !has(self.min)",
                "error-rate and slow-share are shares that must not rise: give max or maxOverStable",
            ),
        )
    )

    metric: Annotated[MetricName, Field(strict=False)]
    max: Decimal | None = None
    min: Decimal | None = None
    max_over_stable: Decimal | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(bound is not None for bound in (self.max, self.min, self.max_over_stable)) != 1:
            raise ValueError("give exactly one of max, min and maxOverStable")
        if (self.metric is MetricName.FRESH_TAE_SHARE) != (self.min is not None):
            raise ValueError("fresh-tae-share takes min; error-rate and slow-share take max or maxOverStable")
        return self


class RolloutRequest(Wire):
    """A one-shot wish. Executed once, only while ``revision`` is what it names; its id is then remembered in status."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    action: Literal["Abort", "Promote", "Retry"]
    revision: Annotated[str, Field(min_length=1, max_length=16)]
    """Abort and Promote: the running canary. Retry: the failed revision to try again."""


_DEFAULT_ANALYSIS: tuple[dict[str, str], ...] = (
    {"metric": "error-rate", "max": "0.01"},
    {"metric": "slow-share", "maxOverStable": "0.05"},
    {"metric": "fresh-tae-share", "min": "0.95"},
)


class Rollout(Wire):
    """How a revision takes over."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.steps.map(s, s.setWeight).isSorted()", "steps must not go down: a canary's weight only grows"),
        )
    )

    steps: Annotated[list[Step], Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: [Step(set_weight=25), Step(set_weight=50)]
    )
    analysis: Annotated[
        list[AnalysisMetric],
        Field(
            max_length=3,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
        ),
    ] = Field(default_factory=lambda: [AnalysisMetric.model_validate(m) for m in _DEFAULT_ANALYSIS])
    progress_deadline_seconds: Annotated[int, Field(ge=30, le=604800)] = Field(
        default=600,
        description="A canary that neither becomes ready nor gathers enough samples for this long is rolled back.",
    )
    request: RolloutRequest | None = None

    @model_validator(mode="after")
    def _rising(self) -> Self:
        weights = [step.set_weight for step in self.steps]
        if weights != sorted(weights):
            raise ValueError("steps must not go down: a canary's weight only grows")
        metrics = [entry.metric for entry in self.analysis]
        if len(set(metrics)) != len(metrics):
            raise ValueError("analysis must not repeat a metric")
        return self


class ExpertModelSpec(Wire):
    """What a surface's team wants of its expert."""

    suspend: bool = Field(default=False, description="Start no training; what serves goes on serving.")
    foundation_ref: ModelRef
    surface: Annotated[
        Identifier,
        Field(json_schema_extra=rules(("self == oldSelf", "surface is immutable: make another ExpertModel"))),
    ]
    tasks: Annotated[
        list[Task],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    architecture: ExpertArchitecture = Field(default_factory=ExpertArchitecture)
    data: Data | None = Field(
        default=None, description="Where the surface's events are; absent: the foundation's data."
    )
    refresh: Refresh = Field(default_factory=Refresh)
    training: Training
    gates: Gates = Field(default_factory=Gates)
    serving: ExpertServing
    rollout: Rollout = Field(default_factory=Rollout)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("tasks must not repeat a name")
        return self


class RevisionStatus(Status):
    """A revision that serves or served: the pair, and the serving template as it was when the revision began.

    The template is kept here because ``spec`` may already hold the next one while this revision still serves.
    """

    revision: Annotated[str, Field(max_length=16)]
    version: int
    digest: Digest
    path: Annotated[str, Field(max_length=512)]
    foundation: FoundationPin
    serving: ExpertServing
    tasks: Annotated[list[Task], Field(default_factory=list, max_length=16)]
    models_claim: Annotated[str, Field(max_length=253)] = ""
    """The volume claim that holds the artefact, as it was when the revision began."""
    since: Timestamp
    replicas: int = 0
    ready_replicas: int = 0


class MetricResult(Status):
    """One judgement with everything needed to repeat it by hand."""

    metric: Annotated[MetricName, Field(strict=False)]
    verdict: Annotated[Verdict, Field(strict=False)]
    value: Annotated[str, Field(max_length=24)] = ""
    stable_value: Annotated[str, Field(max_length=24)] = ""
    bound: Annotated[str, Field(max_length=40)] = ""
    samples: int = 0
    """Requests of the canary that were counted."""
    min_samples: int = 0
    """Requests after which a canary without a single bad one succeeds; with bad ones it takes more."""
    query: Annotated[str, Field(max_length=2048)] = ""
    """The count of bad requests, divided by that of all of them, as they were asked for."""
    time: Timestamp
    """Of the figures. Verdicts are written when they change, figures that came to the same ones once a minute."""
    message: Message = ""


class CanaryStatus(RevisionStatus):
    """The revision on trial."""

    state: Literal["Initial", "Progressing", "Promoting"] = "Progressing"
    """Initial: the first revision, nothing serves beside it. Promoting: all steps passed, growing to full size."""
    step: int = 0
    """Index into the steps that the replica count can express."""
    step_weight: int = 0
    """The step's asked weight in percent."""
    desired_weight: int = 0
    """The weight that the replica count can express for this step, in percent."""
    actual_weight: int = 0
    """The canary's share of ready endpoints, in percent."""
    weight_since: Timestamp | None = None
    """When the step's weight took effect; the analysis window starts here."""
    measured_weight: Annotated[str, Field(max_length=8)] = ""
    """The canary's share of requests as Prometheus saw it, in percent."""
    progressed_at: Timestamp
    results: Annotated[list[MetricResult], Field(default_factory=list, max_length=8)]
    message: Message = ""


class FailedRevision(Status):
    """A revision that was rolled back. It is not tried again until a Retry asks for it."""

    revision: Annotated[str, Field(max_length=16)]
    version: int
    foundation_version: int
    image: Annotated[str, Field(max_length=512)] = ""
    reason: Reason
    message: Message
    time: Timestamp
    serving_changed: bool = False
    """Whether its serving template was another than stable's: then the failure says nothing of the models alone."""
    results: Annotated[list[MetricResult], Field(default_factory=list, max_length=8)]


class RefreshStatus(Status):
    """Why this expert is to be retrained, since when it waits, and towards which foundation version."""

    reason: Reason
    message: Message = ""
    since: Timestamp
    foundation_version: int


class ExpertSummary(Status):
    """Ready-made strings for printer columns."""

    stable: Short = ""
    canary: Short = ""
    weight: Short = ""


class ExpertModelStatus(Status):
    """What the operator knows of an expert."""

    observed_generation: int = 0
    conditions: Conditions
    last_number: int = 0
    trained_inputs_hash: Annotated[str, Field(max_length=64)] = ""
    run: RunStatus | None = None
    failures: Failures
    refresh: RefreshStatus | None = None
    latest: int | None = None
    stable: RevisionStatus | None = None
    canary: CanaryStatus | None = None
    failed_revisions: Annotated[list[FailedRevision], Field(default_factory=list, max_length=16)]
    handled_requests: Annotated[list[Annotated[str, Field(max_length=64)]], Field(default_factory=list, max_length=32)]
    replicas: int = 0
    selector: Annotated[str, Field(max_length=512)] = ""
    """Label selector of all of this expert's server pods, for the scale subresource."""
    summary: ExpertSummary = Field(default_factory=ExpertSummary)


class ExpertModel(Wire):
    """One surface's light model."""

    model_config = ConfigDict(json_schema_extra=rules(*NAME_RULES))

    api_version: Literal["recast.dev/v1alpha1"] = "recast.dev/v1alpha1"
    kind: Literal["ExpertModel"] = "ExpertModel"
    metadata: ModelMeta
    spec: ExpertModelSpec
    status: ExpertModelStatus = Field(default_factory=lambda: ExpertModelStatus())
