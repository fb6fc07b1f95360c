"""One training run, from the operator's configuration of it to the landed version.

The steps are the same for both kinds: publish what an earlier attempt completed; else train, measure beside the
version that serves, land the artefact, create the ModelVersion, drop the checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recast_api import names
from recast_api.manifest import Manifest, UsableRows, describe_files, load_verified
from recast_api.resources.version import Aggregate, Baseline, FoundationPin, Measurement
from recast_api.run import ArtifactRef, RecastError, TrainingRun
from recast_model.artifact import ExpertBundle, FoundationBundle, load_expert, load_foundation, save_model
from recast_model.config import ExpertConfig, ExpertTask, FoundationConfig
from recast_trainer import clock
from recast_trainer.data.pinning import PinnedData
from recast_trainer.data.segments import require_tasks
from recast_trainer.evaluation.burnin import first_usable
from recast_trainer.evaluation.leak import require_no_leak
from recast_trainer.evaluation.measure import ScoredRows, aggregate, headline, measurements
from recast_trainer.evaluation.metrics import Floats
from recast_trainer.evaluation.scoring import computed, score_expert, score_foundation
from recast_trainer.publishing.artifact import land, landed
from recast_trainer.publishing.version import VersionApi, publish
from recast_trainer.tae import log as tae_log
from recast_trainer.training.checkpoint import CHECKPOINTS, Checkpoints
from recast_trainer.training.expert import ExpertTrainer, find_examples
from recast_trainer.training.loop import FoundationTrainer, TrainedFoundation
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Ints, Stream, open_stream, pin_data


@dataclass(frozen=True)
class TrainingResult:
    """A trained and measured version whose files do not exist yet."""

    config: FoundationConfig | ExpertConfig
    watermark: int
    finite: bool
    measurements: list[Measurement]
    compared: bool
    usable_rows: list[UsableRows]
    write: Callable[[Path], None]
    aggregate: Aggregate | None


def execute(run: TrainingRun, group: ProcessGroup, api: Callable[[], VersionApi] | None) -> Manifest | None:
    """Do the whole run; the leading process returns the landed manifest. ``api`` None lands without publishing."""
    final = Path(run.models_root) / names.artifact_path(run.kind, run.model, run.uid, run.number)
    work = Path(run.models_root) / names.checkpoint_path(run.kind, run.model, run.uid, run.number)
    manifest = landed(final)
    group.barrier()  # nobody may land before everybody has looked
    if manifest is not None:
        group.log(f"{final.name} is complete already: publishing it")
    else:
        pinned = pin_data(Path(run.data_root) / run.data.path, run.data, work, group)
        landing = (_foundation if run.expert is None else _expert)(run, group, work, pinned)
        # The last time that processes meet. gloo's threads free the work before it when all have done it; whoever left
        # at once could be in the middle of that, which aborted 3 of 10 runs of two. What follows is the leader's alone
        # and may take long, so nobody waits for it: a peer that did would give up after PEER_TIMEOUT.
        group.barrier()
        if group.is_leader:
            manifest = land(final, landing.write, lambda files, folder: _manifest(run, landing, files, folder))
    if not group.is_leader or manifest is None:
        return None
    group.log(f"landed {names.version(run.kind, run.model, run.number)} {manifest.digest[:19]}")
    group.log(f"NE on the held-out window: {headline(manifest.measurements, manifest.aggregate)}")
    if api is not None:
        publish(api(), run, manifest)
    shutil.rmtree(work, ignore_errors=True)
    return manifest


def foundation_config(run: TrainingRun, stream: Stream) -> FoundationConfig:
    """The network that the run and the data describe."""
    if run.architecture is None:
        raise RecastError("BadRun", "a foundation's run needs architecture; the operator and the trainer differ")
    wanted = run.architecture
    return FoundationConfig(
        block=wanted.block,
        layers=wanted.layers,
        dim=wanted.dim,
        heads=wanted.heads,
        history_length=wanted.history_length,
        attn_norm_len=wanted.history_length,
        tae_dim=wanted.tae_dim,
        content_dim=stream.dataset.content_dim,
        item_count=len(stream.items),
        surfaces=stream.dataset.surface_names,
        tasks=stream.dataset.tasks,
    )


def expert_config(run: TrainingRun, foundation: FoundationConfig) -> ExpertConfig:
    """The network that the run describes, reading this foundation."""
    if run.expert is None:
        raise RecastError("BadRun", "an expert's run needs expert; the operator and the trainer differ")
    wanted = run.expert.architecture
    return ExpertConfig(
        layers=wanted.layers,
        dim=wanted.dim,
        heads=wanted.heads,
        history_length=wanted.history_length,
        attn_norm_len=wanted.history_length,
        tae_dim=foundation.tae_dim,
        content_dim=foundation.content_dim,
        item_count=foundation.item_count,
        surface=run.expert.surface,
        surfaces=foundation.surfaces,
        event_tasks=foundation.tasks,
        tasks=tuple(ExpertTask(task.name, float(task.weight)) for task in run.expert.tasks),
    )


def open_foundation(root: str, reference: ArtifactRef) -> tuple[Manifest, FoundationBundle, Path]:
    """A landed foundation, every byte checked against the digest that the operator pinned."""
    folder = Path(root) / reference.path
    manifest = load_verified(folder, reference.digest)
    return manifest, load_foundation(folder, manifest), folder


def open_expert(root: str, reference: ArtifactRef) -> tuple[Manifest, ExpertBundle]:
    """A landed expert, checked likewise."""
    folder = Path(root) / reference.path
    manifest = load_verified(folder, reference.digest)
    return manifest, load_expert(folder, manifest)


def fingerprint(run: TrainingRun, pinned: PinnedData) -> str:
    """Hash of what a checkpoint depends on: the run without its attempt, and the files that it reads."""
    inputs = run.model_dump(mode="json", exclude={"attempt", "job_name", "baseline", "baseline_foundation"})
    files = [pin.wire() for pin in pinned.files]
    return hashlib.sha256(json.dumps([inputs, files], sort_keys=True).encode()).hexdigest()


def _foundation(run: TrainingRun, group: ProcessGroup, work: Path, pinned: PinnedData) -> TrainingResult:
    stream = open_stream(Path(run.data_root) / run.data.path, run.data, pinned)
    config = foundation_config(run, stream)
    trained = FoundationTrainer(stream, config, run.optimization, group, work, fingerprint(run, pinned)).train()
    require_no_leak(trained.tail, stream.truth(stream.requests_from(trained.split.learn), config.tasks), config.tasks)
    baseline = _baseline(run, group, lambda: _foundation_baseline(run, stream, trained, group))
    first = first_usable(trained.similarities)
    usable = _usable_rows(stream, trained, first)
    for entry in usable:
        group.log(f"TAE rows an expert may learn from on {entry.surface}: {entry.prequential} + {entry.tail} tail")

    def write(folder: Path) -> None:
        save_model(folder, trained.model, stream.items, stream.snapshot(config.history_length))
        log = folder / tae_log.FOLDER
        log.mkdir()
        kept = [tae_log.file_name(index, "prequential") for index in range(first, trained.split.learn)]
        kept += [tae_log.file_name(index, "tail") for index in range(trained.split.learn, trained.split.end)]
        for name in kept:
            shutil.copyfile(work / tae_log.FOLDER / name, log / name)
        about = {"firstUsableSegment": first, "similarityToFinal": [round(s, 4) for s in trained.similarities]}
        (log / "burn-in.json").write_text(json.dumps(about))

    found = measurements(trained.tail, config.surfaces, config.tasks, baseline)
    whole = aggregate(trained.tail, config.surfaces, config.tasks, baseline)
    return TrainingResult(config, trained.watermark, trained.finite, found, baseline is not None, usable, write, whole)


def _expert(run: TrainingRun, group: ProcessGroup, work: Path, pinned: PinnedData) -> TrainingResult:
    assert run.expert is not None
    wanted = run.expert
    _, foundation, folder = open_foundation(run.models_root, wanted.foundation)
    data = open_stream(Path(run.data_root) / run.data.path, run.data, pinned)
    require_tasks(data.dataset, wanted.surface, [task.name for task in wanted.tasks])
    _require_same_vocabulary(data, foundation.config)
    config = expert_config(run, foundation.config)
    stream = data.with_items(foundation.items, by_surface=True)
    examples = find_examples(stream, folder / tae_log.FOLDER, wanted.surface, config.tae_dim, group.device)
    checkpoints = Checkpoints(work / CHECKPOINTS, fingerprint(run, pinned))
    expert = ExpertTrainer(stream, config, run.optimization, group, examples, checkpoints)
    model = expert.train()
    scored = score_expert(model, stream, examples.held_out, examples.tae, group)
    tasks = [task.name for task in config.tasks]
    require_no_leak(scored, stream.truth(examples.held_out, tasks), tasks)
    baseline = _baseline(run, group, lambda: _expert_baseline(run, data, examples.held_out, scored, group))
    alone = replace(scored, surfaces=np.zeros_like(scored.surfaces))  # of one surface: index 0 of one name
    found = measurements(alone, [config.surface], tasks, baseline)
    whole = aggregate(alone, [config.surface], tasks, baseline, [task.weight for task in config.tasks])

    def write(target: Path) -> None:
        save_model(target, model, stream.items, stream.snapshot(config.history_length, config.surface_index))

    finite = expert.learner.finite()
    return TrainingResult(config, examples.watermark, finite, found, baseline is not None, [], write, whole)


def _foundation_baseline(
    run: TrainingRun, stream: Stream, trained: TrainedFoundation, group: ProcessGroup
) -> dict[str, Floats]:
    assert run.baseline is not None
    manifest, bundle, _ = open_foundation(run.models_root, run.baseline)
    _require_same_vocabulary(stream, bundle.config)
    _require_unseen(trained.tail, manifest)
    bundle.model.to(group.device)
    tail = stream.requests_from(trained.split.learn)
    scored, _ = score_foundation(bundle.model, stream.with_items(bundle.items), tail, group)
    return {task: scored.logits[:, column] for column, task in enumerate(bundle.config.tasks)}


def _expert_baseline(
    run: TrainingRun, data: Stream, held_out: Ints, scored: ScoredRows, group: ProcessGroup
) -> dict[str, Floats]:
    assert run.baseline is not None
    if run.baseline_foundation is None:
        raise RecastError("BadRun", "the baseline expert's foundation is not named")
    manifest, expert = open_expert(run.models_root, run.baseline)
    foundation_manifest, foundation, _ = open_foundation(run.models_root, run.baseline_foundation)
    for model in (manifest, foundation_manifest):
        _require_unseen(scored, model)
    _require_same_vocabulary(data, foundation.config)
    foundation.model.to(group.device)
    expert.model.to(group.device)
    tae = computed(foundation.model, data.with_items(foundation.items), group)
    theirs = score_expert(expert.model, data.with_items(expert.items, by_surface=True), held_out, tae, group)
    return {task.name: theirs.logits[:, column] for column, task in enumerate(expert.config.tasks)}


def _baseline(
    run: TrainingRun, group: ProcessGroup, measure: Callable[[], dict[str, Floats]]
) -> dict[str, Floats] | None:
    """The baseline's logits, or None with the reason printed: a lost old version must not stop a new one."""
    if run.baseline is None:
        return None
    try:
        return measure()
    except RecastError as error:
        group.log(f"no comparison with v{run.baseline.version}: {error}")
        return None


def _require_unseen(scored: ScoredRows, manifest: Manifest) -> None:
    if (scored.available_at <= clock.from_rfc3339(manifest.watermark)).any():
        raise RecastError(
            "BaselineSawLabels",
            f"{manifest.model} v{manifest.number} has learned labels up to {manifest.watermark}, "
            "beyond the start of the held-out rows",
        )


def _require_same_vocabulary(stream: Stream, config: FoundationConfig) -> None:
    """Surfaces and tasks are indices in batches: they must mean the same to the data and to the foundation."""
    if (config.surfaces, config.tasks) != (stream.dataset.surface_names, stream.dataset.tasks):
        raise RecastError(
            "DataChanged",
            f"the foundation knows surfaces {', '.join(config.surfaces)} and tasks {', '.join(config.tasks)}; the data "
            f"now have {', '.join(stream.dataset.surface_names)} and {', '.join(stream.dataset.tasks)}. "
            "Train the foundation again",
        )


def _usable_rows(stream: Stream, trained: TrainedFoundation, first: int) -> list[UsableRows]:
    rows = stream.table.rows
    begin, tail = (stream.segments[index].start for index in (first, trained.split.learn))
    return [
        UsableRows(
            surface=surface,
            prequential=int((own & (rows.event_times >= begin) & (rows.event_times < tail)).sum()),
            tail=int((own & (rows.event_times >= tail)).sum()),
        )
        for index, surface in enumerate(stream.dataset.surface_names)
        for own in (rows.surfaces == index,)
    ]


def _manifest(run: TrainingRun, landing: TrainingResult, files: list[str], folder: Path) -> Manifest:
    pin = run.expert.foundation if run.expert is not None else None
    compared = run.baseline if landing.compared else None
    config = landing.config
    tasks = [task.name for task in config.tasks] if isinstance(config, ExpertConfig) else list(config.tasks)
    return Manifest(
        kind=run.kind,
        model=run.model,
        uid=run.uid,
        number=run.number,
        lineage=run.number,
        created=clock.now(),
        watermark=clock.to_rfc3339(landing.watermark),
        files=describe_files(folder, files),
        config=config.to_dict(),
        surfaces=[config.surface] if isinstance(config, ExpertConfig) else list(config.surfaces),
        tasks=tasks,
        job_name=run.job_name,
        attempt=run.attempt,
        inputs_hash=run.inputs_hash,
        foundation=FoundationPin(name=pin.model, version=pin.version, lineage=pin.lineage, digest=pin.digest)
        if pin
        else None,
        baseline=Baseline(version=compared.version, digest=compared.digest) if compared else None,
        usable_rows=landing.usable_rows,
        finite=landing.finite,
        measurements=landing.measurements,
        aggregate=landing.aggregate,
    )
