"""What a network is made of: the values that a version's manifest carries and a constructor needs.

No torch here: the trainer and the servers read a configuration before they decide to load anything heavy.
``attn_norm_len`` is part of it because the block divides by it: taken from a batch's padded length instead, the same
weights would give other vectors at serving than in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from recast_api.run import RecastError
from recast_model.context import TYPES, ContextFeature, Features

Block = Literal["Research", "DLRMv3"]
_CONTEXT = "context"
TABLE_DIM_MULTIPLE = 4
"""FBGEMM's fused tables hold rows of a multiple of four numbers alone."""


@dataclass(frozen=True)
class FoundationConfig:
    """The foundation's network."""

    block: Block
    layers: int
    dim: int
    heads: int
    history_length: int
    attn_norm_len: int
    """Constant divisor of attention weights, the same in training and serving."""
    tae_dim: int
    content_dim: int
    item_count: int
    """Items known to the version; dense item indices are 1..item_count, 0 is unknown or padding."""
    surfaces: tuple[str, ...]
    tasks: tuple[str, ...]
    """Union of all surfaces' tasks; a task's place is its bit in action masks and its column in logits."""
    dropout: float = 0.0
    context: Features = ()
    """Features of a request's context that the version knows."""

    def __post_init__(self) -> None:
        _check(self.dim, self.heads, self.attn_norm_len, self.block, self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``Manifest.config``."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration in a manifest. Raises ``ConfigMismatch`` where fields differ from this release's."""
        fields = _known(cls, values)
        return cls(
            **fields
            | {"surfaces": tuple(fields["surfaces"]), "tasks": tuple(fields["tasks"]), "context": _context(fields)}
        )


@dataclass(frozen=True)
class ExpertTask:
    """A task that the expert predicts, and its weight in the ranking score."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class ExpertConfig:
    """An expert's own network beside the foundation's TAE."""

    layers: int
    dim: int
    heads: int
    history_length: int
    attn_norm_len: int
    tae_dim: int
    content_dim: int
    item_count: int
    surface: str
    surfaces: tuple[str, ...]
    """The foundation's surfaces, in its order: surface indices in a batch mean the same to both."""
    event_tasks: tuple[str, ...]
    """The foundation's tasks, in its order: the bits of action masks in histories."""
    tasks: tuple[ExpertTask, ...]
    block: Block = "DLRMv3"
    dropout: float = 0.1
    tae_dropout: float = 0.25
    """Share of training requests that see the absent vector, so that serving without a foundation was practised.

    It also keeps the expert's own network from leaning on the TAE, which the foundation's heads read for it
    (docs/evidence/experts.md).
    """
    context: Features = ()
    """The foundation's features of a request's context."""

    def __post_init__(self) -> None:
        _check(self.dim, self.heads, self.attn_norm_len, self.block, self.tasks)
        if self.surface not in self.surfaces:
            raise RecastError(
                "SurfaceNotFound", f'surface "{self.surface}" is not among {", ".join(self.surfaces)}; fix spec.surface'
            )
        unknown = [task.name for task in self.tasks if task.name not in self.event_tasks]
        if unknown:
            raise RecastError(
                "TaskNotFound",
                f"tasks {', '.join(unknown)} are not among {', '.join(self.event_tasks)}; fix spec.tasks",
            )

    @property
    def surface_index(self) -> int:
        """Index of the expert's surface in a batch."""
        return self.surfaces.index(self.surface)

    @property
    def task_columns(self) -> tuple[int, ...]:
        """Columns of the expert's tasks in the labels of a batch."""
        return tuple(self.event_tasks.index(task.name) for task in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for ``Manifest.config``."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration in a manifest. Raises ``ConfigMismatch`` where fields differ from this release's."""
        fields = _known(cls, values)
        return cls(
            **fields
            | {
                "surfaces": tuple(fields["surfaces"]),
                "event_tasks": tuple(fields["event_tasks"]),
                "tasks": tuple(ExpertTask(**task) for task in fields["tasks"]),
                "context": _context(fields),
            }
        )


def _plain(config: FoundationConfig | ExpertConfig) -> dict[str, Any]:
    """A configuration without context is written as it was before there was any: older releases read it."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    del values[_CONTEXT]
    return values | ({_CONTEXT: [feature.to_dict() for feature in config.context]} if config.context else {})


def _context(fields: Mapping[str, Any]) -> Features:
    found = tuple(ContextFeature.from_dict(feature) for feature in fields.get(_CONTEXT, ()))
    strange = [feature.type for feature in found if feature.type not in TYPES]
    if strange:
        raise RecastError(
            "ConfigMismatch",
            f"the version's configuration has context features of type {strange[0]}, which this release does not know; "
            "load it with the release that wrote it, or train again",
        )
    return found


def _known(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    expected = set(cls.__dataclass_fields__)
    if {*values, _CONTEXT} != expected:
        wrong = ", ".join(sorted({*values, _CONTEXT} ^ expected))
        raise RecastError(
            "ConfigMismatch",
            f"the version's configuration differs from {cls.__name__} in: {wrong}; "
            "load it with the release that wrote it, or train again",
        )
    return dict(values)


def _check(dim: int, heads: int, attn_norm_len: int, block: str, tasks: tuple[object, ...]) -> None:
    if dim % heads:
        raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
    if dim % TABLE_DIM_MULTIPLE:
        raise ValueError(f"dim {dim} is not a multiple of {TABLE_DIM_MULTIPLE}: the embedding tables need it")
    if attn_norm_len < 1:
        raise ValueError(f"attn_norm_len must be at least 1, not {attn_norm_len}")
    if block not in ("Research", "DLRMv3"):
        raise ValueError(f'block "{block}" is neither Research nor DLRMv3')
    if not tasks:
        raise ValueError("a model needs at least one task")
