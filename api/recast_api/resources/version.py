"""``ModelVersion``: one immutable trained artefact. Its existence *is* the event "a version landed"."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from recast_api import names
from recast_api.base import Digest, Identifier, Name, RelativePath, Short, Status, Timestamp, Wire, rules
from recast_api.resources.common import Conditions, ObjectMeta

Signed = Annotated[str, Field(max_length=24, pattern=r"^-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?$")]
"""A measured number as a decimal string."""


class ModelReference(Wire):
    """The model a version belongs to. The UID tells a re-created model from the one that trained this."""

    kind: Literal["FoundationModel", "ExpertModel"]
    """The model's kind."""
    name: Name
    """The model's name."""
    uid: Annotated[str, Field(min_length=1, max_length=64)]
    """The model's metadata.uid."""


class FoundationPin(Wire):
    """The foundation version an expert was trained with: the other half of the pair."""

    name: Name
    """Name of the FoundationModel."""
    version: Annotated[int, Field(ge=1)]
    """Number of its version."""
    lineage: Annotated[int, Field(ge=1)]
    """Number of the first version of that version's lineage."""
    digest: Digest
    """Digest of that version's artefact."""


class Baseline(Wire):
    """The version that served when this one was trained; the paired measurements compare with it."""

    version: Annotated[int, Field(ge=1)]
    """Its number."""
    digest: Digest
    """Digest of its artefact."""


class Measurement(Wire):
    """Quality on the newest held-out window (the tail), for one surface and one task, by weights that had not learned
    it."""

    surface: Annotated[str, Field(min_length=1, max_length=40)]
    """The surface whose rows were measured."""
    task: Annotated[str, Field(min_length=1, max_length=40)]
    """The label that was predicted."""
    rows: Annotated[int, Field(ge=0)]
    """Held-out rows with that label."""
    positives: Annotated[int, Field(ge=0)]
    """Those whose label is 1."""
    ne: Signed
    """Normalised entropy: log loss over the log loss of the window's own base rate. Below 1 is better than the rate."""
    calibration: Signed
    """Mean prediction over observed rate."""
    baseline_ne: Signed | None = None
    """The baseline version's normalised entropy on the same rows."""
    ne_increase: Signed | None = None
    """Relative increase against the baseline, paired on the same rows: (ne - baseline) / baseline."""
    ne_increase_low: Signed | None = None
    """One-sided 95 % lower bound of the increase, resampled by user."""
    ne_increase_high: Signed | None = None
    """One-sided 95 % upper bound of the increase, resampled by user."""


class Aggregate(Wire):
    """Quality over all surfaces and tasks together: log losses summed, each times the weight of its task."""

    rows: Annotated[int, Field(ge=0)]
    """Held-out labels, counted over surfaces and tasks."""
    positives: Annotated[int, Field(ge=0)]
    """Those that are 1."""
    ne: Signed
    """Summed log loss over the summed log loss of each surface's and task's own base rate."""
    baseline_ne: Signed | None = None
    """The baseline version's, on the same rows."""
    ne_increase: Signed | None = None
    """Relative increase against the baseline, paired on the same rows: (ne - baseline) / baseline."""
    ne_increase_low: Signed | None = None
    """One-sided 95 % lower bound of the increase, users resampled over all surfaces and tasks at once."""
    ne_increase_high: Signed | None = None
    """One-sided 95 % upper bound of the increase, likewise."""


class Tail(Wire):
    """The newest data of a foundation's version: it was measured on them first, and learned them then."""

    segments: Annotated[int, Field(ge=1)]
    """How many of the newest segments that were."""
    watermark: Timestamp
    """Availability time up to which the weights that were measured had trained: the measurements are theirs."""
    learned: bool
    """Whether what serves has learned the tail since. If not, it is what was measured."""
    refused: Annotated[str, Field(max_length=256)] = ""
    """Why it has not."""
    similarity: Signed
    """Mean cosine between the embeddings of the tail's rows before and after the tail was learned, less what all rows
    have in common."""
    gap: Aggregate | None = None
    """Over the whole tail: ne of the measured weights, which stood still, and as its baseline that of the weights that
    learned each segment once they had been measured on it."""


class TrainingRunRef(Wire):
    """Which run made it: names the Job, so that admission can tie a version to the pod that lands it."""

    job_name: Annotated[str, Field(min_length=1, max_length=63)]
    """The Job of the attempt that landed it."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Which attempt that was."""
    inputs_hash: Annotated[str, Field(max_length=64)]
    """Hash of everything that the run learned from: spec, data and foundation version."""


_PAIR_MESSAGE = (
    "an expert's version names the foundation version it was trained with; a foundation's version names none"
)


class ModelVersionSpec(Wire):
    """What landed. Immutable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self == oldSelf", "a ModelVersion is immutable: land a new number instead"),
            (
                "self.model.kind == 'ExpertModel' ? has(self.foundation) : !has(self.foundation)",
                _PAIR_MESSAGE,
            ),
        )
    )

    model: ModelReference
    number: Annotated[int, Field(ge=1, le=999999)]
    """The version's number; numbers of one model only grow."""
    lineage: Annotated[int, Field(ge=1, le=999999)]
    """Number of the first version of the chain that this one continues; its own number where it starts one."""
    digest: Digest
    """SHA-256 of the artefact's manifest, which has the digest of every file."""
    path: RelativePath
    """Folder of the artefact inside the model's storage."""
    watermark: Timestamp
    """Availability time up to which it has trained."""
    foundation: FoundationPin | None = None
    baseline: Baseline | None = None
    run: TrainingRunRef | None = None
    finite: bool = True
    """Whether every weight is finite."""
    tasks: Annotated[
        list[Annotated[Identifier, Field(description="Name of a task.")]], Field(default_factory=list, max_length=16)
    ]
    """What an expert's version was trained for, and so all that it can serve; empty: the tasks it was measured on."""
    measurements: Annotated[list[Measurement], Field(default_factory=list, max_length=256)]
    """Quality on held-out rows, one entry per surface and task. The gates judge each as a guard."""
    tail: Tail | None = None
    """What was measured on before it was learned; of a foundation's version."""
    aggregate: Aggregate | None = None
    """Quality over all of them together, which the gates judge first. Absent in what older trainers landed: the mean of
    ``measurements``, weighted by rows, stands in."""

    @property
    def served_tasks(self) -> frozenset[str]:
        """Names of the tasks that an expert's version can serve."""
        return frozenset(self.tasks or (entry.task for entry in self.measurements))

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.foundation is not None) != (self.model.kind == "ExpertModel"):
            raise ValueError(_PAIR_MESSAGE)
        return self


class VersionSummary(Status):
    """Ready-made strings for printer columns."""

    state: Short = ""
    """Accepted, Rejected or Retired."""
    ne: Short = ""
    """Mean normalised entropy, weighted by rows."""
    change: Short = ""
    """Change of the mean against the baseline on the same rows."""
    used_by: int | None = None
    """How many experts read this foundation version. Absent on an expert's: the expert's status says what it serves."""


class ModelVersionStatus(Status):
    """The operator's verdict. No trainer can write this."""

    observed_generation: int = 0
    """The metadata.generation that this status was made from."""
    conditions: Conditions
    summary: VersionSummary = Field(default_factory=VersionSummary)


class ModelVersion(Wire):
    """An immutable trained version of a foundation or an expert."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                # Not string(number): the apiserver takes its length for unbounded and refuses the rule as too costly.
                "self.metadata.name.startsWith((self.spec.model.kind == 'FoundationModel' ? 'fm-' : 'em-')"
                " + self.spec.model.name + '-v')"
                " && self.metadata.name.substring(self.spec.model.name.size() + 5).matches('^[1-9][0-9]{0,5}$')"
                " && int(self.metadata.name.substring(self.spec.model.name.size() + 5)) == self.spec.number",
                "metadata.name must be fm-<model>-v<number> or em-<model>-v<number>, as spec.model and spec.number say",
            )
        )
    )

    api_version: Literal["recast.dev/v1alpha1"] = "recast.dev/v1alpha1"
    kind: Literal["ModelVersion"] = "ModelVersion"
    metadata: ObjectMeta
    spec: ModelVersionSpec
    status: ModelVersionStatus = Field(default_factory=lambda: ModelVersionStatus())

    @model_validator(mode="after")
    def _named(self) -> Self:
        model = self.spec.model
        if self.metadata.name != names.version(model.kind, model.name, self.spec.number):
            raise ValueError("metadata.name must be fm-<model>-v<number> or em-<model>-v<number>")
        return self
