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
    """The label's name in the data: the column label_<name>."""
    weight: Decimal = "1"
    """The task's share in the ranking score, relative to the other tasks'."""


class ExpertArchitecture(Wire):
    """The expert's own light network beside the TAE."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.dim % self.heads == 0", "dim must be a multiple of heads"))
    )

    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """HSTU blocks, one upon the other."""
    dim: Annotated[int, Field(ge=8, le=1024)] = 32
    """Width of a token; a multiple of heads."""
    heads: Annotated[int, Field(ge=1, le=16)] = 2
    """Attention heads of each block."""
    history_length: Annotated[int, Field(ge=4, le=512)] = 32
    """Recent events of this surface that the expert reads itself."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError("dim must be a multiple of heads")
        return self


Policy = Annotated[
    Literal["FoundationMajor", "SpecChange"],
    Field(
        description="FoundationMajor: the foundation has a version that starts a new lineage. SpecChange: tasks, "
        "architecture, training or data in the spec are not those that the version was trained from."
    ),
]


def _both_policies() -> list[Policy]:
    return ["FoundationMajor", "SpecChange"]


class Refresh(Wire):
    """What makes the served version stale. The first version is always trained."""

    triggers: Annotated[
        list[Policy],
        Field(max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = Field(default_factory=_both_policies)
    """What makes a version stale; the first that holds is the reason."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.triggers)) != len(self.triggers):
            raise ValueError("refresh.triggers must not repeat one")
        return self


class Step(Wire):
    """One step of a canary: a share of traffic, held until its analysis succeeds and at least for the pause."""

    set_weight: Annotated[int, Field(ge=1, le=100)]
    """The canary's share of the traffic, in percent. With n replicas a share is expressed in n-ths; steps that come to
    the same number of pods are one."""
    pause: Duration = "10s"
    """The least time that this weight is held, from the moment that it has taken effect."""


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
            (
                "![has(self.max) ? self.max : '0', has(self.min) ? self.min : '0', has(self.maxOverStable) ? "
                "self.maxOverStable : '0'].exists(b, b.matches('^([2-9]|1[0-9]|1[.]0*[1-9])'))",
                'a bound is a share from 0 to 1: write "0.05" for 5 %',
            ),
        )
    )

    metric: Annotated[MetricName, Field(strict=False)]
    """error-rate: requests answered with a 5xx status. slow-share: requests slower than spec.serving.sloMilliseconds.
    fresh-tae-share: answered requests whose TAE came from the foundation and not from a fallback."""
    max: Decimal | None = None
    """The largest share that passes; of error-rate and slow-share."""
    min: Decimal | None = None
    """The least share that passes; of fresh-tae-share."""
    max_over_stable: Decimal | None = None
    """How far the share may exceed the stable revision's in the same time; of error-rate and slow-share."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(bound is not None for bound in (self.max, self.min, self.max_over_stable)) != 1:
            raise ValueError("give exactly one of max, min and maxOverStable")
        if (self.metric is MetricName.FRESH_TAE_SHARE) != (self.min is not None):
            raise ValueError("fresh-tae-share takes min; error-rate and slow-share take max or maxOverStable")
        if any(bound is not None and float(bound) > 1 for bound in (self.max, self.min, self.max_over_stable)):
            raise ValueError('a bound is a share from 0 to 1: write "0.05" for 5 %')
        return self


class RolloutRequest(Wire):
    """A one-shot action. It is executed once, and only if ``revision`` is the one that it can act on."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    """Any text that was not used before: an id that is in status.handledRequests is not executed again."""
    action: Literal["Abort", "Promote", "Retry"]
    """Abort: roll the canary back. Promote: skip the remaining steps and their analysis. Retry: forget that the
    revision failed, so that it is tried again."""
    revision: Annotated[str, Field(min_length=1, max_length=16)]
    """Abort and Promote: the running canary, status.canary.revision. Retry: one of status.failedRevisions."""


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
    """The canary's weights, in order and never falling. After the last one it is promoted."""
    analysis: Annotated[
        list[AnalysisMetric],
        Field(
            max_length=3,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
        ),
    ] = Field(default_factory=lambda: [AnalysisMetric.model_validate(m) for m in _DEFAULT_ANALYSIS])
    """What a step must pass, one entry per metric. An empty list passes a step when its pause is over."""
    progress_deadline_seconds: Annotated[int, Field(ge=30, le=604800)] = 600
    """A canary that neither becomes ready nor gathers enough samples for this long, beyond its pause, is rolled
    back."""
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

    suspend: bool = False
    """Start no training; what serves goes on serving."""
    foundation_ref: ModelRef
    """The FoundationModel whose embeddings this expert reads. After a change the old pair serves until the new one is
    promoted."""
    surface: Annotated[
        Identifier,
        Field(json_schema_extra=rules(("self == oldSelf", "surface is immutable: make another ExpertModel"))),
    ]
    """The surface that it serves, as the data name it. Immutable."""
    tasks: Annotated[
        list[Task],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    """The labels that it predicts. The ranking score is the sum of predictions, each times its weight."""
    architecture: ExpertArchitecture = Field(default_factory=ExpertArchitecture)
    data: Data | None = None
    """Where the surface's events are; absent: the foundation's data."""
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
    """Hash of expert artefact, foundation lineage and serving template; the label recast.dev/revision of its pods."""
    version: int
    """Number of the expert's version."""
    digest: Digest
    """Digest of its artefact."""
    path: Annotated[str, Field(max_length=512)]
    """Folder of its artefact inside the models volume."""
    foundation: FoundationPin
    """The foundation version that it reads."""
    serving: ExpertServing
    """The serving template as it was when the revision began."""
    tasks: Annotated[list[Task], Field(default_factory=list, max_length=16)]
    """The tasks as they were when the revision began."""
    models_claim: Annotated[str, Field(max_length=253)] = ""
    """The volume claim that holds the artefact, as it was when the revision began."""
    since: Timestamp
    """Since when it has this role."""
    replicas: int = 0
    """Pods of its Deployment."""
    ready_replicas: int = 0
    """Those that are ready."""


class MetricResult(Status):
    """One judgement with everything needed to repeat it by hand."""

    metric: Annotated[MetricName, Field(strict=False)]
    """The metric of spec.rollout.analysis."""
    verdict: Annotated[Verdict, Field(strict=False)]
    """Success, Failure, Inconclusive (too little to tell yet) or NoData (nothing was counted)."""
    value: Annotated[str, Field(max_length=24)] = ""
    """The canary's share."""
    stable_value: Annotated[str, Field(max_length=24)] = ""
    """The stable revision's share in the same time, where the two are compared."""
    bound: Annotated[str, Field(max_length=40)] = ""
    """What it was judged against."""
    samples: int = 0
    """Requests of the canary that were counted."""
    min_samples: int = 0
    """Requests after which a canary without a single bad one succeeds; with bad ones it takes more."""
    query: Annotated[str, Field(max_length=2048)] = ""
    """The count of bad requests, divided by that of all of them, as they were asked for."""
    time: Timestamp
    """Of the figures. Verdicts are written when they change, figures that came to the same ones once a minute."""
    message: Message = ""
    """The same in words."""


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
    """When it last moved on; the progress deadline counts from here."""
    unanswered_since: Timestamp | None = None
    """Since when Prometheus does not answer: the progress deadline stands still."""
    stable_down_since: Timestamp | None = None
    """Since when no stable pod is ready: the progress deadline stands still, and this revision gets all the pods."""
    results: Annotated[list[MetricResult], Field(default_factory=list, max_length=8)]
    """The newest result of each metric in this step."""
    message: Message = ""
    """What it waits for."""


class RetiringRevision(Status):
    """A revision that is neither stable nor on trial any more, and whose pods are not all gone."""

    revision: Annotated[str, Field(max_length=16)]
    """The revision."""
    version: int
    """Number of the expert's version."""
    foundation: FoundationPin
    """What its pods read: kept servers until the last of them is gone."""
    since: Timestamp
    """When it was replaced, dropped or rolled back."""
    failed: bool = False
    """It was rolled back or its model was rejected, so that its pods go sooner than those of one that was replaced."""


class HandledRequest(Status):
    """What became of the newest ``spec.rollout.request``."""

    id: Annotated[str, Field(max_length=64)]
    """Its id."""
    action: Annotated[str, Field(max_length=16)]
    """What it asked for."""
    revision: Annotated[str, Field(max_length=16)]
    """The revision that it named."""
    ignored: Message = ""
    """Why it was not carried out; empty where it was."""


class FailedRevision(Status):
    """A revision that was rolled back. It is not tried again until a Retry asks for it."""

    revision: Annotated[str, Field(max_length=16)]
    """The revision; name it in a Retry."""
    version: int
    """Number of the expert's version."""
    foundation_version: int
    """Number of the foundation version that it read."""
    foundation_name: Short = ""
    """The foundation that it read; empty in a status of an older operator."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Its serving image."""
    reason: Reason
    """Why it was rolled back, as one word."""
    message: Message
    """Why, with names and numbers, and what to do."""
    time: Timestamp
    """When it was rolled back."""
    serving_changed: bool = False
    """Whether its serving template was another than stable's: then the failure says nothing of the models alone."""
    results: Annotated[list[MetricResult], Field(default_factory=list, max_length=8)]
    """The last result of each metric."""


class RefreshStatus(Status):
    """Why this expert is to be retrained, since when it waits, and towards which foundation version."""

    reason: Reason
    """The policy that is violated."""
    message: Message = ""
    """How it is violated."""
    since: Timestamp
    """Since when it waits."""
    foundation_version: int
    """The foundation version that it is to be trained with."""


class ExpertSummary(Status):
    """Ready-made strings for printer columns."""

    stable: Short = ""
    """The stable pair: expert version @ foundation version."""
    canary: Short = ""
    """The canary's pair, where there is one."""
    weight: Short = ""
    """The canary's share of ready pods."""


class ExpertModelStatus(Status):
    """What the operator knows of an expert."""

    observed_generation: int = 0
    """The metadata.generation that this status was made from."""
    conditions: Conditions
    last_number: int = 0
    """The highest version number ever reserved: numbers only grow."""
    trained_inputs_hash: Annotated[str, Field(max_length=64)] = ""
    """Inputs of the newest landed version."""
    run: RunStatus | None = None
    failures: Failures
    refresh: RefreshStatus | None = None
    latest: int | None = None
    """The newest version that landed, whether or not it was accepted."""
    stable: RevisionStatus | None = None
    """The revision that serves, or served all of the traffic last."""
    canary: CanaryStatus | None = None
    previous: RevisionStatus | None = None
    """The revision that was stable before this one."""
    retiring: Annotated[list[RetiringRevision], Field(default_factory=list, max_length=16)]
    """Revisions that left and whose pods may still read their foundation's servers, newest last."""
    failed_revisions: Annotated[list[FailedRevision], Field(default_factory=list, max_length=16)]
    """Revisions that were rolled back, the newest last. None of them is tried again without a Retry."""
    handled_requests: Annotated[
        list[Annotated[str, Field(max_length=64, description="The id of a spec.rollout.request.")]],
        Field(default_factory=list, max_length=32),
    ]
    """Requests that were executed or refused, the newest last."""
    last_request: HandledRequest | None = None
    """The newest of them, with what became of it."""
    replicas: int = 0
    """Pods of all revisions, for the scale subresource."""
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
