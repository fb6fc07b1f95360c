"""Figures for people: a landed version on data it never learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recast_api.manifest import MANIFEST, WEIGHTS, Manifest, load_verified
from recast_api.pair import is_pair
from recast_api.resources.version import Aggregate, FoundationPin, Measurement
from recast_api.run import DataRef, RecastError
from recast_model.artifact import load_expert, load_foundation
from recast_model.config import ExpertConfig
from recast_trainer import clock
from recast_trainer.data.schema import ALL_SURFACES
from recast_trainer.evaluation.measure import ScoredRows, aggregate, measurements
from recast_trainer.evaluation.scoring import score_foundation, score_pair
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Choice, Stream, open_stream

SINGLE_PROCESS = ProcessGroup()
WHOLE_DATA_SET = DataRef(path="x")  # the window of a data set that is given by its folder


def open_manifest(folder: Path) -> Manifest:
    """A version's manifest with all bytes checked against it; nobody's pin is at hand to check the digest itself."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise RecastError("ArtifactMissing", f"no {MANIFEST} in {folder}; give the folder of a version") from error
    return load_verified(folder, manifest.digest)


@dataclass(frozen=True)
class Scored:
    """A version's predictions for rows that it never learned, and what its measurements are called."""

    rows: ScoredRows
    surfaces: tuple[str, ...]
    tasks: tuple[str, ...]
    weights: tuple[float, ...]
    """How much each task counts in the aggregate."""

    def logits(self) -> dict[str, np.ndarray]:
        """The predictions (R,) by task, as the baseline of another version on the same rows."""
        return {task: self.rows.logits[:, column] for column, task in enumerate(self.tasks)}

    def measured(self, baseline: dict[str, np.ndarray] | None = None) -> list[Measurement]:
        """The figures of each surface and task."""
        return measurements(self.rows, self.surfaces, self.tasks, baseline)

    def aggregate(self, baseline: dict[str, np.ndarray] | None = None) -> Aggregate | None:
        """The figures of all of them together."""
        return aggregate(self.rows, self.surfaces, self.tasks, baseline, self.weights)


def predictions(artifact: Path, foundation: Path | None, data: Path) -> Scored:
    """Score a landed version on all requests after its watermark, and after its foundation's.

    On data that end where the version's did, a foundation scores with the weights that it was measured with, and so all
    of its tail. Raises ``BadRun``, ``PairMismatch`` or ``NothingToMeasure``, and what reading an artefact or a data set
    raises.
    """
    manifest, stream = open_manifest(artifact), open_stream(data, WHOLE_DATA_SET)
    if manifest.kind == "FoundationModel":
        weights, watermark = _not_learned(manifest, stream)
        bundle = load_foundation(artifact, manifest, weights=weights)
        known = stream.known_by(bundle.config.context)
        walk = known.walk(bundle.config.history_length, choose=_after(watermark))
        scored = _some(
            [score_foundation(bundle.model, requests, bundle.items, SINGLE_PROCESS)[0] for _, requests in walk]
        )
        config = bundle.config
        return Scored(scored, config.surfaces, config.tasks, (1.0,) * len(config.tasks))
    if foundation is None:
        raise RecastError("BadRun", "an expert is measured with its foundation: give --foundation")
    expert = load_expert(artifact, manifest)
    foundation_manifest = open_manifest(foundation)
    served = FoundationPin(
        name=foundation_manifest.model,
        version=foundation_manifest.number,
        lineage=foundation_manifest.lineage,
        digest=foundation_manifest.digest,
    )
    if manifest.foundation is None or not is_pair(served, manifest.foundation):
        raise RecastError("PairMismatch", f"{artifact} was trained with another foundation than {foundation}")
    weights, watermark = _not_learned(foundation_manifest, stream)
    source = load_foundation(foundation, foundation_manifest, weights=weights)
    watermark = max(clock.from_rfc3339(manifest.watermark), watermark)
    scored = _some(score_pair(expert, source, stream, _after(watermark), SINGLE_PROCESS))
    return _of_one_surface(scored, expert.config)


def evaluate(artifact: Path, foundation: Path | None, data: Path) -> list[Measurement]:
    """Measure a version on all requests after its watermark, print a table and return it."""
    scored = predictions(artifact, foundation, data)
    found, whole = scored.measured(), scored.aggregate()
    print(f"{'surface':16}{'task':16}{'rows':>9}{'NE':>9}{'calibration':>13}")
    for item in found:
        print(
            f"{item.surface:16}{item.task:16}{item.rows:9,}{float(item.ne):9.4f}{float(item.calibration):13.3f}",
            flush=True,
        )
    if whole is not None and len(found) > 1:
        print(f"{ALL_SURFACES:32}{whole.rows:9,}{float(whole.ne):9.4f}", flush=True)
    return found


def _not_learned(foundation: Manifest, stream: Stream) -> tuple[str, int]:
    """Which of a foundation's weights score a stream, and their watermark in ms: what serves, if the stream goes on."""
    watermark = clock.from_rfc3339(foundation.watermark)
    if stream.end - 1 > watermark:
        return WEIGHTS, watermark
    return foundation.measured_weights, clock.from_rfc3339(foundation.measured_watermark)


def _after(watermark: int) -> Choice:
    """Requests none of whose labels were known at the watermark."""
    return lambda _, slates: slates.known[0] > watermark


def _some(parts: Sequence[ScoredRows]) -> ScoredRows:
    scored = ScoredRows.concatenate(parts)
    if not len(scored.row_ids):
        raise RecastError("NothingToMeasure", "the version has learned all of this data; give newer data")
    return scored


def _of_one_surface(scored: ScoredRows, config: ExpertConfig) -> Scored:
    alone = replace(scored, surfaces=np.zeros_like(scored.surfaces))  # of one surface: index 0 of one name
    tasks, weights = zip(*((task.name, task.weight) for task in config.tasks), strict=True)
    return Scored(alone, (config.surface,), tasks, weights)
