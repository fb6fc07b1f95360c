"""Parts that more than one resource has: metadata, conditions, storage, training, gates."""

from __future__ import annotations

from decimal import Decimal as Number
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from recast_api.base import (
    Decimal,
    Duration,
    Image,
    Message,
    Name,
    Quantity,
    Reason,
    RelativePath,
    Status,
    Timestamp,
    Wire,
    rules,
)

GROUP = "recast.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class OwnerReference(Status):
    """The part of an owner reference that adoption looks at."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(Status):
    """The part of an object's metadata that Recast reads."""

    name: Annotated[str, Field(max_length=63)]
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[OwnerReference] = Field(default_factory=list)


NAME_RULES = (
    ("self.metadata.name.size() <= 40", "metadata.name must have at most 40 characters"),
    (
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS-1035 label: lower-case letters, digits and '-', beginning with a letter",
    ),
)
"""Rules for a model's name, out of which every child's name is made. :class:`ModelMeta` says the same in Python."""


class ModelMeta(ObjectMeta):
    """The metadata of a model: its name is short enough for its children's names."""

    name: Name


class Condition(Status):
    """One aspect of an object's state, as in ``metav1.Condition``."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: Message = ""
    last_transition_time: Timestamp
    observed_generation: int = 0


Conditions = Annotated[
    list[Condition],
    Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class PersistentVolumeClaim(Wire):
    """A claim in the resource's namespace."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class Storage(Wire):
    """Where artefacts, checkpoints and the TAE log live: a volume that trainers write and servers read."""

    persistent_volume_claim: PersistentVolumeClaim


class Data(Wire):
    """The event stream to learn from: hourly Parquet segments and a ``dataset.json`` in a folder of a volume."""

    persistent_volume_claim: PersistentVolumeClaim
    path: RelativePath = Field(description="Folder of the data set inside the volume.")
    until: Timestamp | None = Field(
        default=None, description="Learn from segments that end at or before this instant; absent: from all there are."
    )
    window: Duration | None = Field(
        default=None, description="Learn from this much event time before the end; absent: from the beginning."
    )


class Resources(Wire):
    """Requests and limits of one process's container, as in a pod."""

    requests: Annotated[dict[str, Quantity], Field(default_factory=dict, max_length=8)]
    limits: Annotated[dict[str, Quantity], Field(default_factory=dict, max_length=8)]


class Training(Wire):
    """How a version is trained: TorchX turns this into one Indexed Job an attempt."""

    image: Image
    nodes: Annotated[int, Field(ge=1, le=256)] = 1
    procs_per_node: Annotated[int, Field(ge=1, le=16)] = 1
    resources: Resources = Field(default_factory=Resources)
    batch_size: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=32, description="Requests in one global batch, over all processes."
    )
    learning_rate: Decimal = "0.003"
    epochs: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1, description="Passes over the expert's rows. A foundation learns from a stream in one pass: 1."
    )
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 0
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    active_deadline_seconds: Annotated[int, Field(ge=30, le=2592000)] = 14400
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2592000)] = 3600


class Calibration(Wire):
    """The allowed ratio of predicted to observed positives on the newest held-out window."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("double(self.min) <= double(self.max)", "calibration.min must not exceed calibration.max")
        )
    )

    min: Decimal = "0.8"
    max: Decimal = "1.25"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if Number(self.min) > Number(self.max):
            raise ValueError("calibration.min must not exceed calibration.max")
        return self


class Gates(Wire):
    """What a landed version must satisfy before it may serve. Judged by the operator, never by the trainer."""

    max_ne_increase: Decimal = Field(
        default="0.005",
        alias="maxNEIncrease",
        description="Largest relative increase of normalised entropy against the serving version. Rejected "
        "when the one-sided 95 % lower bound of its increase, paired on the same rows, is above this.",
    )
    calibration: Calibration = Field(default_factory=Calibration)


class ModelRef(Wire):
    """A resource of the same namespace."""

    name: Name
