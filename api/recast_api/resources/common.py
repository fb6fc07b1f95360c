"""Parts that more than one resource has: metadata, conditions, storage, training, gates."""

from __future__ import annotations

from decimal import Decimal as Number
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from recast_api.base import (
    Decimal,
    Duration,
    Fraction,
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
    """Which aspect, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Reason
    """Why, as one CamelCase word that does not change between releases; docs/reasons.md explains each."""
    message: Message = ""
    """Why, with names and numbers, and what to do."""
    last_transition_time: Timestamp
    """When the status last changed."""
    observed_generation: int = 0
    """The metadata.generation that this was judged from."""


Conditions = Annotated[
    list[Condition],
    Field(
        default_factory=list,
        max_length=16,
        description="The aspects of the object's state, one entry per type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class PersistentVolumeClaim(Wire):
    """A claim in the resource's namespace."""

    claim_name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    """Name of the PersistentVolumeClaim. Several pods mount it at once: ReadWriteMany, where nodes are many."""


class Storage(Wire):
    """Where artefacts, checkpoints and the TAE log live: a volume that trainers write and servers read."""

    persistent_volume_claim: PersistentVolumeClaim
    """The claim, in the resource's namespace."""


class Data(Wire):
    """The event stream to learn from: hourly Parquet segments and a ``dataset.json`` in a folder of a volume."""

    persistent_volume_claim: PersistentVolumeClaim
    """The claim, in the resource's namespace."""
    path: RelativePath
    """Folder of the data set inside the volume."""
    until: Timestamp | None = None
    """Learn from segments that end at or before this instant; absent: from all there are."""
    window: Duration | None = None
    """Learn from this much event time before the end; absent: from the beginning."""


class Resources(Wire):
    """Requests and limits of the container, as in a pod."""

    requests: Annotated[dict[str, Quantity], Field(default_factory=dict, max_length=8)]
    """What the scheduler reserves, by resource name: cpu, memory, nvidia.com/gpu."""
    limits: Annotated[dict[str, Quantity], Field(default_factory=dict, max_length=8)]
    """What the container may use at most, by resource name."""


class Optimizer(Wire):
    """How weights are moved: dense ones by AdamW, embedding tables by row-wise Adagrad, both on one schedule.

    The schedule is a linear warm-up, the full rates or a decay, and a line down to a tenth at the end. All but
    warmUpSteps is in shares of the run, so that it has the same shape however long the data are.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("double(self.warmUpShare) > 0.0", "optimizer.warmUpShare must be above 0"),
            ("double(self.maxGradientNorm) > 0.0", "optimizer.maxGradientNorm must be above 0"),
        )
    )

    table_learning_rate: Decimal = "0.03"
    """Step size of the embedding tables; training.learningRate is that of the dense weights."""
    warm_up_steps: Annotated[int, Field(ge=1, le=1000000)] = 100
    """Steps in which the rates rise from near 0 to their full size; 1: none."""
    warm_up_share: Fraction = "0.1"
    """Share of the run, above 0 and at most 1, at which the warm-up is over even if it has had fewer steps; a
    decay begins there."""
    decay: Literal["Constant", "InverseSquareRoot"] = "Constant"
    """What follows the warm-up. Constant: the rates stay until the cool-down. InverseSquareRoot: they fall with the
    square root of the share of the run that is over, so that the embeddings settle sooner and experts can use more of
    the log; the model itself ends somewhat worse."""
    cool_down_share: Fraction = "0.3"
    """Share of the run, at its end, over which the rates go down to a tenth in a line; 0: they do not."""
    weight_decay: Decimal = "0.01"
    """AdamW's decay, of the matrices alone: norms, biases, embeddings and learned vectors have none."""
    max_gradient_norm: Decimal = "1"
    """Norm that gradients are scaled down to where theirs is larger: that of all dense weights together, and that of
    each table's rows together."""

    @model_validator(mode="after")
    def _above_zero(self) -> Self:
        for name, value in (("warmUpShare", self.warm_up_share), ("maxGradientNorm", self.max_gradient_norm)):
            if not Number(value):
                raise ValueError(f"optimizer.{name} must be above 0")
        return self


class Training(Wire):
    """How a version is trained: TorchX turns this into one Indexed Job per attempt."""

    image: Image
    """The trainer's image, with its registry; a digest is as good as a tag."""
    nodes: Annotated[int, Field(ge=1, le=256)] = 1
    """Pods of the Job, which train together."""
    procs_per_node: Annotated[int, Field(ge=1, le=16)] = 1
    """Training processes in each pod: one per GPU, or one."""
    resources: Resources = Field(default_factory=Resources)
    """Requests and limits of each pod's container."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    """Requests in one global batch, over all processes."""
    learning_rate: Decimal = "0.003"
    """Step size of the dense weights, reached after a warm-up."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    """Step size of the embedding tables, schedule, weight decay and clipping."""
    epochs: Annotated[int, Field(ge=1, le=16)] = 1
    """Passes over the expert's rows. A foundation learns from a stream in one pass: 1."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 0
    """Seed of initial weights and of every random choice. Another seed is another training."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts of one run that may fail before it is given up; one that was pre-empted does not count."""
    active_deadline_seconds: Annotated[int, Field(ge=30, le=2592000)] = 14400
    """Longest time of one attempt; the run fails when it is over."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2592000)] = 3600
    """How long a finished Job, with its pods' logs, is kept."""


class Calibration(Wire):
    """The allowed ratio of predicted to observed positives on the newest held-out window."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("double(self.min) <= double(self.max)", "calibration.min must not exceed calibration.max")
        )
    )

    min: Decimal = "0.8"
    """The least ratio that may serve."""
    max: Decimal = "1.25"
    """The largest ratio that may serve."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if Number(self.min) > Number(self.max):
            raise ValueError("calibration.min must not exceed calibration.max")
        return self


class Gates(Wire):
    """What a landed version must satisfy before it may serve. Judged by the operator, never by the trainer."""

    max_ne_increase: Decimal = Field(default="0.005", alias="maxNEIncrease")
    """Largest relative increase of normalised entropy against the serving version, over all surfaces and tasks
    together. A version is rejected when the one-sided 95 % lower bound of its increase, paired on the same rows, is
    above this; the bound takes in both which users were held out and trainingNoise."""
    max_task_ne_increase: Decimal = Field(default="0.02", alias="maxTaskNEIncrease")
    """Largest relative increase on any one surface and task: a guard against a loss that the sum hides. The bounds of
    all guards together are wrong in at most 1 % of cases. Counts as maxNEIncrease where that is larger. One task is
    known from fewer positives than all together, and learns less evenly: hence the wider default."""
    min_positives: Annotated[int, Field(ge=0, le=1000000)] = 100
    """Held-out positives below which a surface's task is not judged: so few do not tell a loss from chance."""
    training_noise: Fraction = "0.025"
    """Relative standard deviation of normalised entropy, over all surfaces and tasks, between trainings that differ in
    their seed alone, from 0 to 1; a single task's is taken as one and a half times it. Two versions differ by the
    square root of 2 times as much without either being better. Measure yours with a few seeds; the default is what
    small models on a generated stream show (docs/evidence/gates.md)."""
    inconclusive: Literal["Accept", "Reject"] = "Accept"
    """What becomes of a version of which the comparison can say neither that it is worse nor that it is within
    maxNEIncrease. Accept: it may serve, and the canary judges next, on live traffic. Reject: what serves goes on."""
    calibration: Calibration = Field(default_factory=Calibration)
    """The allowed ratio of predicted to observed positives, judged where there are at least 1,600 positives."""


class ModelRef(Wire):
    """A resource of the same namespace."""

    name: Name
    """Its name."""
