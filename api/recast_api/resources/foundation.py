"""``FoundationModel``: the one central model, its training, its servers, and the fleet of experts that read it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from recast_api.base import Decimal, Digest, Duration, Name, Short, Status, Timestamp, Wire, rules
from recast_api.resources.common import NAME_RULES, Conditions, Data, Gates, ModelMeta, Storage, Training
from recast_api.resources.run import Failures, RunStatus
from recast_api.resources.serving import FoundationServing


class Architecture(Wire):
    """The network. Every field is part of the version's identity: a change starts a new lineage."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.dim % self.heads == 0", "dim must be a multiple of heads"))
    )

    layers: Annotated[int, Field(ge=1, le=64)] = 2
    """HSTU blocks, one upon the other."""
    dim: Annotated[int, Field(ge=8, le=8192)] = 64
    """Width of a token; a multiple of heads."""
    heads: Annotated[int, Field(ge=1, le=128)] = 2
    """Attention heads of each block."""
    history_length: Annotated[int, Field(ge=4, le=65536)] = 128
    """Events of a user that one request attends to, the newest."""
    tae_dim: Annotated[int, Field(ge=4, le=4096)] = 32
    """Width of the target-aware embedding that experts read."""
    block: Literal["Research", "DLRMv3"] = "DLRMv3"
    """Which published form of the HSTU block: they differ and do not share weights."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError("dim must be a multiple of heads")
        return self


class FoundationData(Data):
    """The event stream that a foundation learns from, and how much of it versions are measured on."""

    tail: Duration | None = None
    """The newest event time, which a version is measured on before it learns it: the older half is what experts end
    on, the newer half what their versions are measured on. Two segments or more, and two must be left before it.
    Absent: a fifth of the segments, from 2 up to 24."""


class FoundationGates(Gates):
    """What a landed version of a foundation must satisfy before it may serve."""

    max_moving_gap: Decimal = "0.03"
    """Largest relative increase of normalised entropy over the tail by standing still: of weights that learn none of
    it, against weights that learn each segment once they were measured on it. A version is rejected when the one-sided
    95 % lower bound is above this: what serves would go stale within the tail, and experts learn from fresher
    embeddings than they are served. The default lets pass what small models on little data show, which learn much from
    every hour (docs/evidence/tail.md); where your stream is large, state 0.005."""


class Fleet(Wire):
    """How the experts of this foundation follow a new version."""

    pilots: Annotated[
        list[Annotated[Name, Field(description="Name of an ExpertModel that reads this foundation.")]],
        Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = Field(default_factory=list)
    """Experts that try a candidate first and hold the rest back until they are promoted on it."""
    max_concurrent_refreshes: Annotated[int, Field(ge=1, le=256)] = 4
    """Experts that may train and roll out at the same time; the others wait, and serve meanwhile."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.pilots)) != len(self.pilots):
            raise ValueError("pilots must not repeat a name")
        return self


class FoundationModelSpec(Wire):
    """What a team wants of its foundation model."""

    suspend: bool = False
    """Start no training; what serves goes on serving."""
    architecture: Architecture = Field(default_factory=Architecture)
    storage: Storage
    data: FoundationData
    training: Training
    gates: FoundationGates = Field(default_factory=FoundationGates)
    serving: FoundationServing
    fleet: Fleet = Field(default_factory=Fleet)


class FoundationVersionRef(Status):
    """A version of this foundation, by number, lineage and content."""

    version: int
    """The version's number."""
    lineage: int
    """Number of the first version of its lineage."""
    digest: Digest
    """Digest of its artefact."""
    since: Timestamp
    """Since when it has this role."""


_ExpertName = Annotated[Short, Field(description="Name of an ExpertModel.")]


class LineageStatus(Status):
    """One lineage that has servers, and who keeps it."""

    lineage: int
    """Number of the lineage's first version."""
    version: int
    """The version that its servers load."""
    replicas: int = 0
    """Pods of its Deployment."""
    ready_replicas: int = 0
    """Those that are ready."""
    pinned_by: Annotated[list[_ExpertName], Field(default_factory=list, max_length=20)]
    """Experts whose stable or canary revision reads it, the first twenty by name."""
    pins: int = 0
    """How many experts read it."""
    unpinned_since: Timestamp | None = None
    """Since when nobody reads it; its servers go shortly after."""


class WaveStatus(Status):
    """Who refreshes now and who waits. The foundation alone grants slots, so that two experts never take one."""

    granted: Annotated[list[_ExpertName], Field(default_factory=list, max_length=256)]
    """Experts that hold a slot."""
    waiting: Annotated[list[_ExpertName], Field(default_factory=list, max_length=20)]
    """Experts that wait for a slot, the next twenty in order."""
    waiting_total: int = 0
    """How many experts wait."""
    experts: int = 0
    """How many experts name this foundation in spec.foundationRef."""
    on_newest: int = 0
    """How many of them serve on the candidate, or on the current version where there is no candidate."""


class FoundationSummary(Status):
    """Ready-made strings for printer columns."""

    current: Short = ""
    """The current version."""
    candidate: Short = ""
    """The candidate, where there is one."""
    experts: Short = ""
    """How many experts are on the newest version."""


class FoundationModelStatus(Status):
    """What the operator knows of a foundation."""

    observed_generation: int = 0
    """The metadata.generation that this status was made from."""
    conditions: Conditions
    last_number: int = 0
    """The highest version number ever reserved: numbers only grow."""
    trained_inputs_hash: Annotated[str, Field(max_length=64)] = ""
    """Inputs of the newest landed version; other inputs in the spec mean that a run is due."""
    run: RunStatus | None = None
    failures: Failures
    latest: int | None = None
    """The newest version that landed, whether or not it was accepted."""
    candidate: FoundationVersionRef | None = None
    """The newest accepted version above the current one; it serves beside it until its pilots are promoted on it."""
    current: FoundationVersionRef | None = None
    """The version that experts are to read."""
    lineages: Annotated[list[LineageStatus], Field(default_factory=list, max_length=16)]
    """The lineages that have servers, the oldest first."""
    wave: WaveStatus = Field(default_factory=lambda: WaveStatus())
    replicas: int = 0
    """Pods of the lineage that most experts read, for the scale subresource: each lineage has as many."""
    selector: Annotated[str, Field(max_length=512)] = ""
    """Label selector of these pods, for the scale subresource."""
    summary: FoundationSummary = Field(default_factory=FoundationSummary)


class FoundationModel(Wire):
    """The central model that every expert reads."""

    model_config = ConfigDict(json_schema_extra=rules(*NAME_RULES))

    api_version: Literal["recast.dev/v1alpha1"] = "recast.dev/v1alpha1"
    kind: Literal["FoundationModel"] = "FoundationModel"
    metadata: ModelMeta
    spec: FoundationModelSpec
    status: FoundationModelStatus = Field(default_factory=lambda: FoundationModelStatus())
