"""The comparison: what is opened, checked and compared, surface by surface.

All arms are scored on the same rows, those that a run of an expert is measured on: the newer half of the foundation's
frozen tail. Tuning ends where these begin.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recast_api.manifest import Manifest
from recast_model.artifact import load_foundation
from recast_trainer.data.segments import require_surface
from recast_trainer.evaluation.compare.arms import Foundation
from recast_trainer.evaluation.compare.progress import Progress
from recast_trainer.evaluation.compare.results import Comparison
from recast_trainer.evaluation.compare.settings import Settings
from recast_trainer.evaluation.compare.surface import Surface
from recast_trainer.evaluation.compare.training import candidates
from recast_trainer.evaluation.report import WHOLE_DATA_SET, open_manifest
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream, open_stream, require_same_vocabulary


def compare(
    foundation: Path,
    data: Path,
    settings: Settings,
    *,
    against: Path | None = None,
    group: ProcessGroup | None = None,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Compare what reads a landed foundation with what does not, and with what reads ``against``, another foundation.

    Raises ``NotComparable`` for two foundations that were not trained on the same data, ``SurfaceNotFound``,
    ``DataChanged``, ``TooFewRows``, ``NothingToMeasure``, and what reading versions and data sets and training an
    expert raises.
    """
    group, stream = group or ProcessGroup(), open_stream(data, WHOLE_DATA_SET)
    manifest, first = _open(foundation, stream)
    other_manifest, other = _open(against, stream) if against else (None, None)
    names = settings.surfaces or list(first.bundle.config.surfaces)
    for name in names:
        require_surface(stream.dataset, name)
    surfaces = [Surface.of(stream, name, first, other, settings) for name in names]
    progress = Progress(*_cost(surfaces, settings), say)
    return Comparison(
        foundation=f"{manifest.model} v{manifest.number}",
        against=f"{other_manifest.model} v{other_manifest.number}" if other_manifest else None,
        seeds=settings.all_seeds,
        settings=settings.wire(),
        surfaces=[surface.compare(settings, group, progress) for surface in surfaces],
    )


def _open(folder: Path, stream: Stream) -> tuple[Manifest, Foundation]:
    manifest = open_manifest(folder)
    bundle = load_foundation(folder, manifest, weights=manifest.measured_weights)
    require_same_vocabulary(stream, bundle.config)
    return manifest, Foundation(bundle, folder)


def _cost(surfaces: list[Surface], settings: Settings) -> tuple[int, int]:
    """How many trainings there will be, and their work at the most, in rows."""
    recipes = candidates(settings)
    tuning = recipes if len(recipes) > 1 else []
    epochs = sum(recipe.epochs for recipe in tuning) + settings.seeds * max(settings.epochs)
    arms = sum(len(surface.arms) for surface in surfaces)
    return arms * (len(tuning) + settings.seeds), sum(each.size * len(each.arms) for each in surfaces) * epochs
