"""Atomic checkpoints: one folder per checkpoint, complete when it has its name; the last two of a run are kept.

``state.json`` holds the :class:`Progress` and the SHA-256 of ``tensors.safetensors``; nothing that is loaded can run
code. Randomness needs no state of its own: the loop derives it from (seed, step, rank). A crash at any point leaves the
previous checkpoint; a file damaged later is found by its hash and passed over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from recast_api.manifest import sha256_file
from recast_trainer.files import replace, sync_tree
from recast_trainer.training.process_group import ProcessGroup

CHECKPOINTS = "checkpoints"
"""Their folder, inside a run's."""
KEEP = 2
TENSORS = "tensors.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands. All that follows is a function of this, the tensors and the data."""

    position: int
    """Segments that a foundation has done; global batches that an expert has."""
    step: int
    """Global batches done."""
    watermark: int = 0
    """Availability time in ms up to which labels were learned."""
    metrics: list[list[float]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints in ``folder`` of a run whose inputs have the hash ``fingerprint``.

    Inputs are everything that must not change between two attempts. Checkpoints of other inputs are never used, and
    never count among those that are kept.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / fingerprint

    def drop_others(self) -> int:
        """Remove checkpoints of other inputs; returns how many entries those were."""
        there = self.folder.parent
        others = [path for path in there.iterdir() if path != self.folder] if there.exists() else []
        for path in others:
            shutil.rmtree(path, ignore_errors=True)
        return len(others)

    def save(self, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> Path:
        """Write one checkpoint whole and drop all but the newest :data:`KEEP`."""
        final = self.folder / f"{progress.position:08d}"
        temporary = final.with_name(final.name + ".incomplete")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary / TENSORS)
        state = {"progress": asdict(progress), "sha256": sha256_file(temporary / TENSORS)}
        (temporary / STATE).write_text(json.dumps(state))
        sync_tree(temporary)
        shutil.rmtree(final, ignore_errors=True)
        replace(temporary, final)
        for old in self._complete()[:-KEEP]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def load(self) -> tuple[Progress, dict[str, torch.Tensor]] | None:
        """The newest checkpoint that is whole, or None."""
        for folder in reversed(self._complete()):
            try:
                state: dict[str, Any] = json.loads((folder / STATE).read_text())
                progress = Progress(**state["progress"])
                if sha256_file(folder / TENSORS) != state["sha256"]:
                    continue
                return progress, load_file(folder / TENSORS)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def _complete(self) -> list[Path]:
        if not self.folder.exists():
            return []
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and path.name.isdigit())


def resume(checkpoints: Checkpoints, group: ProcessGroup) -> tuple[Progress, dict[str, torch.Tensor]] | None:
    """Where an earlier attempt stood, the same for all processes; what cannot be used goes, and that is said."""
    if group.is_leader and checkpoints.drop_others():
        group.log("earlier checkpoints are of other inputs (spec or data have changed since): starting over")
    group.barrier()
    return checkpoints.load()
