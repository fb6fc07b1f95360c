"""An expert as a model of the Open Inference Protocol: which tensors go in, which come out, and what they mean.

One request is about one user. A tensor of another type or shape is refused in words that say what is allowed: nothing
is cast, padded or left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recast_server.expert import schema
from recast_server.expert.edge import Identity
from recast_server.expert.open_inference.tensors import TensorSpec, Value
from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import CANDIDATES, RankRequest, RefusedError

SERVER = "recast"
PLATFORM = "recast_expert"
EXTENSIONS = ("binary_tensor_data",)
CONTEXT = "context."
"""An input whose name begins so is the feature of the request's context that the rest names."""
_OWN_INPUTS = (
    TensorSpec("user", "INT64", (1,)),
    TensorSpec("candidates", "INT64", (1, -1)),
    TensorSpec("time", "INT64", (1,)),
)
_NOT_OFFERED = ("classification", "shared_memory_region")
"""Extensions of the protocol: as parameters of an output, they ask for another form of it."""
_REQUIRED = ("user", "candidates")


@dataclass(frozen=True)
class Declared:
    """An input as a client declares it, and how to read its values.

    ``read`` raises ValueError that says what is wrong with them. It is called for what was found to be allowed alone.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    read: Callable[[TensorSpec], Sequence[Value]]


class Contract:
    """The model that one expert version is."""

    def __init__(self, identity: Identity) -> None:
        self.name, self.version = identity.model, str(identity.version)
        self._tasks = identity.tasks
        context = tuple(
            TensorSpec(CONTEXT + feature.name, "BYTES" if feature.categorical else "FP64", (1,))
            for feature in identity.context
        )
        self.inputs = (*_OWN_INPUTS, *context)
        self.outputs = (
            TensorSpec("scores", "FP32", (1, -1)),
            TensorSpec("probabilities", "FP32", (1, -1, len(self._tasks))),
        )
        foundation = identity.foundation
        self.properties = {
            "tasks": ",".join(self._tasks),
            "surface": identity.surface,
            "revision": identity.revision,
            "foundation": foundation.name,
            "foundation_version": str(foundation.version),
            "foundation_lineage": str(foundation.lineage),
        }
        """What else is to be known of the model; ``tasks`` are in the order of the last axis of ``probabilities``."""

    def has(self, name: str, version: str | None) -> bool:
        """Whether this is the model that is meant; no version is whichever is served here."""
        return name == self.name and (not version or version == self.version)

    def require_model(self, name: str, version: str | None) -> None:
        """Raise :class:`RefusedError` where another model or version is meant."""
        if not self.has(name, version):
            asked = f"{name!r:.80}, version {version!r:.40}" if version else f"{name!r:.80}"
            raise RefusedError(404, "NotFound", f"model {asked} is not here; use {self.name}, version {self.version}")

    def request(self, declared: Sequence[Declared]) -> RankRequest:
        """What is asked. Raises :class:`RefusedError` over inputs that are not as the metadata says."""
        specs = {spec.name: spec for spec in self.inputs}
        values: dict[str, Sequence[Value]] = {}
        for tensor in declared:
            spec = specs.get(tensor.name)
            if spec is None:
                raise _refused(tensor.name, "this version knows no such input", f"only {', '.join(specs)}")
            if tensor.name in values:
                raise _refused(tensor.name, "the input is there twice", f"once, {spec}")
            if not spec.fits(tensor.datatype, tensor.shape):
                given = f"{tensor.datatype:.20} {_shown(tensor.shape)}"
                raise _refused(tensor.name, f"the input is {given}", _allowed(spec))
            if len(tensor.shape) > 1 and tensor.shape[1] > CANDIDATES:
                raise _refused(tensor.name, f"the input has {tensor.shape[1]} items", _allowed(spec))
            try:
                values[tensor.name] = tensor.read(spec)
            except ValueError as error:
                raise _refused(tensor.name, str(error), _allowed(spec)) from None
        for name in _REQUIRED:
            if name not in values:
                raise _refused(name, "the input is missing", _allowed(specs[name]))
        context = {name.removeprefix(CONTEXT): given[0] for name, given in values.items() if name.startswith(CONTEXT)}
        single: dict[str, object] = {name: values[name][0] for name in ("user", "time") if name in values}
        return schema.checked(single | {"candidates": list(values["candidates"]), "context": context})

    def requested(self, names: Sequence[str]) -> tuple[TensorSpec, ...]:
        """The outputs of these names, in this order; all where none is named. Raises :class:`RefusedError`."""
        known = {spec.name: spec for spec in self.outputs}
        for name in names:
            if name not in known:
                raise _refused("outputs", f"there is no output {name!r:.80}", f"only {', '.join(known)}")
        if len(set(names)) < len(names):
            raise _refused("outputs", "an output is there twice", f"{', '.join(known)}, each once")
        return tuple(known[name] for name in names) or self.outputs

    def require_plain(self, name: str, parameters: Mapping[str, object]) -> None:
        """Raise :class:`RefusedError` where an output is wanted in a form that is not offered here."""
        for parameter in _NOT_OFFERED:
            if parameters.get(parameter):
                raise _refused("outputs", f"{name[:80]}: {parameter} is not offered here", "the tensor as it is")

    def answers(self, ranking: Ranking) -> dict[str, NDArray[np.float32]]:
        """Every output by name: scores (1, M) and probabilities (1, M, T), M in the order asked.

        Raises ArithmeticError on what is not finite: a binary form would pass it on in silence.
        """
        scores = np.array([ranking.scores], np.float32)
        count = scores.shape[1]
        columns = [ranking.probabilities[task] for task in self._tasks]
        probabilities = np.array(columns, np.float32).reshape(len(columns), count).T[np.newaxis]
        if not (np.isfinite(scores).all() and np.isfinite(probabilities).all()):
            raise ArithmeticError("the expert's scores are not finite")
        return {"scores": scores, "probabilities": np.ascontiguousarray(probabilities)}

    def parameters(self, ranking: Ranking) -> dict[str, str | int]:
        """What else an answer says: the source of embeddings, and how much of what was asked the version never saw."""
        unknown = {"unknown_context": ",".join(ranking.unknown_context)} if ranking.unknown_context else {}
        return {"tae": ranking.tae, "unknown_items": len(ranking.unknown_items), **unknown}

    def output_parameters(self, spec: TensorSpec) -> Mapping[str, str]:
        """What goes with an output: of probabilities, the tasks along their last axis."""
        return {"tasks": self.properties["tasks"]} if spec.name == "probabilities" else {}


def _allowed(spec: TensorSpec) -> str:
    return f"{spec} with 1 to {CANDIDATES} item ids" if spec.name == "candidates" else str(spec)


def _shown(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape[:6]))}{', …' if len(shape) > 6 else ''}]"[:80]


def _refused(field: str, problem: str, allowed: str) -> RefusedError:
    return schema.refused([{"field": field[:80], "problem": problem, "allowed": allowed}])
