"""Models to and from a version's folder: safetensors alone, so that nothing that is loaded can run code.

Writing the manifest, and making the folder whole at once, is the trainer's publishing; checking digests is
:func:`recast_api.manifest.load_verified`. Here files become modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recast_api.manifest import WEIGHTS, Manifest
from recast_api.run import RecastError
from recast_model.config import ExpertConfig, FoundationConfig
from recast_model.embeddings import TableOptimizer
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot


@dataclass(frozen=True)
class FoundationBundle:
    """A loaded foundation, in evaluation mode."""

    model: FoundationModel
    items: ItemTable
    history: HistorySnapshot

    @property
    def config(self) -> FoundationConfig:
        """The network's configuration."""
        return self.model.config


@dataclass(frozen=True)
class ExpertBundle:
    """A loaded expert, in evaluation mode."""

    model: ExpertModel
    items: ItemTable
    history: HistorySnapshot

    @property
    def config(self) -> ExpertConfig:
        """The network's configuration."""
        return self.model.config


def save_model(folder: Path, weights: Mapping[str, Tensor], items: ItemTable, history: HistorySnapshot) -> list[str]:
    """Write weights (a model's ``state_dict()``), items and histories; returns the files' names, for the manifest."""
    save_weights(weights, folder / WEIGHTS)
    return sorted([WEIGHTS, items.save(folder), history.save(folder)])


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a model's ``state_dict()`` alone."""
    # Copies: live table storage is shared with the optimiser, and safetensors refuses views.
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}, path)


def load_foundation(
    folder: Path, manifest: Manifest, optimizer: TableOptimizer | None = None, weights: str = WEIGHTS
) -> FoundationBundle:
    """The foundation in a folder. With ``optimizer`` its tables can be trained on, with fresh optimiser state.

    ``weights`` may name :data:`recast_api.manifest.MEASURED` where the manifest lists it.

    Raises :class:`RecastError` with ``WrongKind``, ``ConfigMismatch``, ``ArtifactMissing`` or ``ArtifactTruncated``.
    """
    _expect(manifest, "FoundationModel", folder)
    config = FoundationConfig.from_dict(manifest.config)
    items, history = ItemTable.load(folder), HistorySnapshot.load(folder)
    model = FoundationModel(config, torch.from_numpy(items.content_matrix()), optimizer)
    load_weights(model, folder / weights)
    return FoundationBundle(model, items, history)


def load_expert(folder: Path, manifest: Manifest, optimizer: TableOptimizer | None = None) -> ExpertBundle:
    """The expert in a folder; as :func:`load_foundation`."""
    _expect(manifest, "ExpertModel", folder)
    config = ExpertConfig.from_dict(manifest.config)
    items, history = ItemTable.load(folder), HistorySnapshot.load(folder)
    model = ExpertModel(config, torch.from_numpy(items.content_matrix()), optimizer)
    load_weights(model, folder / WEIGHTS)
    return ExpertBundle(model, items, history)


def _expect(manifest: Manifest, kind: str, folder: Path) -> None:
    if manifest.kind != kind:
        raise RecastError("WrongKind", f"{folder} holds {manifest.kind} {manifest.model}, expected {kind}")


def load_weights(model: nn.Module, path: Path) -> None:
    """Put what :func:`save_weights` wrote into a model, for evaluation. Raises as :func:`load_foundation`."""
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise RecastError("ArtifactMissing", f"{path} is not there: restore it or land a new version") from error
    except SafetensorError as error:
        raise RecastError("ArtifactTruncated", f"{path} cannot be read ({error}): land a new version") from error
    except RuntimeError as error:
        raise RecastError("ConfigMismatch", f"{path} does not fit its manifest's configuration: {error}") from error
    model.eval()
