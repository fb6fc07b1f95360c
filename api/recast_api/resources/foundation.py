"""``FoundationModel``: the one central model, its training, its servers, and the fleet of experts that read it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from recast_api.base import Digest, Name, Short, Status, Timestamp, Wire, rules
from recast_api.resources.common import NAME_RULES, Conditions, Data, Gates, ModelMeta, Storage, Training
from recast_api.resources.run import Failures, RunStatus
from recast_api.resources.serving import FoundationServing


class Architecture(Wire):
    """The network. Every field is part of the version's identity: a change starts a new lineage."""

    model_config = ConfigDict(
        json_schema_extra=rules(("self.dim % self.heads == 0", "dim must be a multiple of heads"))
    )

    layers: Annotated[int, Field(ge=1, le=64)] = 2
    dim: Annotated[int, Field(ge=8, le=8192)] = 64
    heads: Annotated[int, Field(ge=1, le=128)] = 2
    history_length: Annotated[int, Field(ge=4, le=65536)] = 128
    tae_dim: Annotated[int, Field(ge=4, le=4096)] = 32
    block: Literal["Research", "DLRMv3"] = Field(
        default="DLRMv3", description="Which published form of the HSTU block: they differ and do not share weights."
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError("dim must be a multiple of heads")
        return self


class Fleet(Wire):
    """How the experts of this foundation follow a new version."""

    pilots: Annotated[list[Name], Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"})] = Field(
        default_factory=list,
        description="Experts that try a candidate first and hold the rest back until they are promoted.",
    )
    max_concurrent_refreshes: Annotated[int, Field(ge=1, le=256)] = 4

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.pilots)) != len(self.pilots):
            raise ValueError("pilots must not repeat a name")
        return self


class FoundationModelSpec(Wire):
    """What a team wants of its foundation model."""

    suspend: bool = Field(default=False, description="Start no training; what serves goes on serving.")
    architecture: Architecture = Field(default_factory=Architecture)
    storage: Storage
    data: Data
    training: Training
    gates: Gates = Field(default_factory=Gates)
    serving: FoundationServing
    fleet: Fleet = Field(default_factory=Fleet)


class FoundationVersionRef(Status):
    """A version of this foundation, by number, lineage and content."""

    version: int
    lineage: int
    digest: Digest
    since: Timestamp


class LineageStatus(Status):
    """One lineage that has servers, and who keeps it."""

    lineage: int
    version: int
    replicas: int = 0
    ready_replicas: int = 0
    pinned_by: Annotated[list[Short], Field(default_factory=list, max_length=20)]
    pins: int = 0
    unpinned_since: Timestamp | None = None


class WaveStatus(Status):
    """Who refreshes now and who waits. The foundation alone grants slots, so that two experts never take one."""

    granted: Annotated[list[Short], Field(default_factory=list, max_length=256)]
    waiting: Annotated[list[Short], Field(default_factory=list, max_length=20)]
    waiting_total: int = 0
    experts: int = 0
    on_newest: int = 0


class FoundationSummary(Status):
    """Ready-made strings for printer columns."""

    current: Short = ""
    candidate: Short = ""
    experts: Short = ""


class FoundationModelStatus(Status):
    """What the operator knows of a foundation."""

    observed_generation: int = 0
    conditions: Conditions
    last_number: int = 0
    """The highest version number ever reserved: numbers only grow."""
    trained_inputs_hash: Annotated[str, Field(max_length=64)] = ""
    """Inputs of the newest landed version; other inputs in the spec mean that a run is due."""
    run: RunStatus | None = None
    failures: Failures
    latest: int | None = None
    candidate: FoundationVersionRef | None = None
    current: FoundationVersionRef | None = None
    lineages: Annotated[list[LineageStatus], Field(default_factory=list, max_length=16)]
    wave: WaveStatus = Field(default_factory=lambda: WaveStatus())
    summary: FoundationSummary = Field(default_factory=FoundationSummary)


class FoundationModel(Wire):
    """The central model that every expert reads."""

    model_config = ConfigDict(json_schema_extra=rules(*NAME_RULES))

    api_version: Literal["recast.dev/v1alpha1"] = "recast.dev/v1alpha1"
    kind: Literal["FoundationModel"] = "FoundationModel"
    metadata: ModelMeta
    spec: FoundationModelSpec
    status: FoundationModelStatus = Field(default_factory=lambda: FoundationModelStatus())
