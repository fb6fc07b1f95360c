"""One training run, from the operator's configuration of it to the landed version.

The steps are the same for both kinds: publish what an earlier attempt completed; else train, measure beside the
version that serves, land the artefact, create the ModelVersion, drop the checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recast_api import names
from recast_api.manifest import MEASURED, Manifest, UsableRows, describe_files, load_verified
from recast_api.resources.version import Aggregate, Baseline, FoundationPin, Measurement, Tail
from recast_api.run import ArtifactRef, ExpertRun, RecastError, TrainingRun
from recast_model.artifact import ExpertBundle, FoundationBundle, load_expert, load_foundation, save_model
from recast_model.config import ExpertConfig, ExpertTask, FoundationConfig
from recast_trainer import clock
from recast_trainer.data.pinning import PinnedData
from recast_trainer.data.segments import require_tasks
from recast_trainer.evaluation.burnin import first_usable
from recast_trainer.evaluation.leak import require_no_leak
from recast_trainer.evaluation.measure import ScoredRows, aggregate, decimal, headline, measurements, warnings
from recast_trainer.evaluation.metrics import Floats
from recast_trainer.evaluation.scoring import score_foundation, score_pair
from recast_trainer.evaluation.tail import describe_gap, moving_gap
from recast_trainer.publishing.artifact import land, landed
from recast_trainer.publishing.version import VersionApi, publish
from recast_trainer.tae import from_answers
from recast_trainer.tae import log as tae_log
from recast_trainer.training.checkpoint import CHECKPOINTS, Checkpoints
from recast_trainer.training.expert import Examples, ExpertTrainer, reader_config
from recast_trainer.training.loop import FoundationTrainer, TrainedFoundation
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream, open_stream, pin_data, require_same_vocabulary


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
    tail: Tail | None = None


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
    before = ", before it was learned" if manifest.tail and manifest.tail.learned else ""
    group.log(f"NE on the held-out window{before}: {headline(manifest.measurements, manifest.aggregate)}")
    for line in warnings(manifest.measurements):
        group.log(line)
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
        context=stream.dataset.context_features,
    )


def expert_config(run: TrainingRun, foundation: FoundationConfig) -> ExpertConfig:
    """The network that the run describes, reading this foundation."""
    if run.expert is None:
        raise RecastError("BadRun", "an expert's run needs expert; the operator and the trainer differ")
    tasks = [ExpertTask(task.name, float(task.weight)) for task in run.expert.tasks]
    return reader_config(foundation, run.expert.architecture, run.expert.surface, tasks)


def open_measured(root: str, reference: ArtifactRef) -> tuple[FoundationBundle, Path]:
    """A landed foundation by the weights that its TAE log is of, every byte checked against the operator's digest.

    What serves may have learned the tail since, and with it the labels that an expert is measured on.
    """
    folder = Path(root) / reference.path
    manifest = load_verified(folder, reference.digest)
    return load_foundation(folder, manifest, weights=manifest.measured_weights), folder


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
    tail_ms = clock.duration_ms(run.data.tail) if run.data.tail else None
    trainer = FoundationTrainer(stream, config, run.optimization, group, work, fingerprint(run, pinned), tail_ms)
    trained = trainer.train()
    require_no_leak(trained.tail, config.tasks)
    tail = _tail(trained, config, group)
    baseline = _baseline(run, group, lambda: _foundation_baseline(run, stream, trained, group))
    first = first_usable(trained.similarities)
    group.barrier()  # the leader has written all of the log
    log = work / tae_log.FOLDER
    kept = [*tae_log.files(log, "prequential")[first:], *tae_log.files(log, "tail")]
    usable = _usable_rows(stream, kept)
    for entry in usable:
        group.log(f"TAE rows an expert may learn from on {entry.surface}: {entry.prequential} + {entry.tail} tail")

    weights = trained.model.state_dict()  # of every process a part

    def write(folder: Path) -> None:
        save_model(folder, weights, stream.items, trained.histories)
        if tail.learned:
            shutil.copyfile(trained.through.weights, folder / MEASURED)
        target = folder / tae_log.FOLDER
        target.mkdir()
        for file in kept:
            shutil.copyfile(file.path, target / file.path.name)
        about = {"firstUsableSegment": first, "similarityToFinal": [round(s, 4) for s in trained.similarities]}
        (target / "burn-in.json").write_text(json.dumps(about))

    return TrainingResult(
        config=config,
        watermark=trained.watermark,
        finite=trained.finite,
        measurements=measurements(trained.tail, config.surfaces, config.tasks, baseline),
        aggregate=aggregate(trained.tail, config.surfaces, config.tasks, baseline),
        compared=baseline is not None,
        usable_rows=usable,
        write=write,
        tail=tail,
    )


def _tail(trained: TrainedFoundation, config: FoundationConfig, group: ProcessGroup) -> Tail:
    """What became of the tail, and the same for people."""
    through, size = trained.through, trained.split.end - trained.split.learn
    gap = moving_gap(trained.tail, through.moving, config.surfaces, config.tasks)
    group.log(describe_gap(gap))
    group.log(
        f"what serves is what was measured, and has not learned the tail of {size} segments: {through.refused}"
        if through.refused
        else f"the tail of {size} segments is learned, TAE similarity {through.similarity:.3f} to what was measured"
    )
    return Tail(
        segments=size,
        watermark=clock.to_rfc3339(through.watermark),
        learned=not through.refused,
        refused=through.refused[:256],
        similarity=decimal(through.similarity),
        gap=gap,
    )


def _expert(run: TrainingRun, group: ProcessGroup, work: Path, pinned: PinnedData) -> TrainingResult:
    assert run.expert is not None
    wanted = run.expert
    foundation, log = _open_read(run, wanted)
    stream = open_stream(Path(run.data_root) / run.data.path, run.data, pinned)
    require_tasks(stream.dataset, wanted.surface, [task.name for task in wanted.tasks])
    require_same_vocabulary(stream, foundation.config)
    config, items = expert_config(run, foundation.config), foundation.items
    examples = Examples(stream.known_by(config.context), log, wanted.surface, config.history_length)
    checkpoints = Checkpoints(work / CHECKPOINTS, fingerprint(run, pinned))
    expert = ExpertTrainer(foundation, config, run.optimization, group, examples, checkpoints)
    model = expert.train()
    held_out = examples.over(examples.held_out)
    scored = expert.measure(held_out)
    tasks = [task.name for task in config.tasks]
    baseline = _baseline(run, group, lambda: _expert_baseline(run, examples, scored, group))
    alone = replace(scored, surfaces=np.zeros_like(scored.surfaces))  # of one surface: index 0 of one name

    weights = model.state_dict()  # of every process a part

    def write(target: Path) -> None:
        save_model(target, weights, items, held_out.snapshot(items))

    return TrainingResult(
        config=config,
        watermark=examples.watermark,
        finite=expert.learner.finite(),
        measurements=measurements(alone, [config.surface], tasks, baseline),
        aggregate=aggregate(alone, [config.surface], tasks, baseline, [task.weight for task in config.tasks]),
        compared=baseline is not None,
        usable_rows=[],
        write=write,
    )


def _open_read(run: TrainingRun, wanted: ExpertRun) -> tuple[FoundationBundle, Path]:
    """The foundation that an expert reads, by the weights that made the TAE log, and that log."""
    if wanted.tae_log is None:
        bundle, folder = open_measured(run.models_root, wanted.foundation)
        return bundle, folder / tae_log.FOLDER
    log = Path(run.data_root) / wanted.tae_log
    from_answers.require_of(log, wanted.foundation.digest)
    folder = Path(run.models_root) / wanted.foundation.path
    return load_foundation(folder, load_verified(folder, wanted.foundation.digest)), log


def _foundation_baseline(
    run: TrainingRun, stream: Stream, trained: TrainedFoundation, group: ProcessGroup
) -> dict[str, Floats]:
    assert run.baseline is not None
    bundle = _open_unseen(run.models_root, run.baseline, trained.tail, group)
    require_same_vocabulary(stream, bundle.config)
    bundle.model.to(group.device)
    tail = stream.known_by(bundle.config.context).walk(
        bundle.config.history_length, choose=lambda index, slates: np.full(len(slates), index >= trained.split.learn)
    )
    scored = ScoredRows.concatenate(
        [score_foundation(bundle.model, requests, bundle.items, group)[0] for _, requests in tail]
    )
    return {task: scored.logits[:, column] for column, task in enumerate(bundle.config.tasks)}


def _expert_baseline(
    run: TrainingRun, examples: Examples, scored: ScoredRows, group: ProcessGroup
) -> dict[str, Floats]:
    assert run.baseline is not None
    if run.baseline_foundation is None:
        raise RecastError("BadRun", "the baseline expert's foundation is not named")
    manifest, expert = open_expert(run.models_root, run.baseline)
    _require_unseen(scored, manifest, manifest.watermark)
    foundation = _open_unseen(run.models_root, run.baseline_foundation, scored, group)
    require_same_vocabulary(examples.stream, foundation.config)
    foundation.model.to(group.device)
    expert.model.to(group.device)
    theirs = ScoredRows.concatenate(score_pair(expert, foundation, examples.stream, examples.is_held_out, group))
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
        if error.termination.retryable:  # of the data, and not of the baseline
            raise
        group.log(f"no comparison with v{run.baseline.version}: {error}")
        return None


def _open_unseen(root: str, reference: ArtifactRef, scored: ScoredRows, group: ProcessGroup) -> FoundationBundle:
    """A landed foundation with the newest of its weights that have learned no label of these rows.

    Raises ``BaselineSawLabels`` where neither what serves nor what was measured will do.
    """
    folder = Path(root) / reference.path
    manifest = load_verified(folder, reference.digest)
    if not _saw(scored, manifest.watermark):
        return load_foundation(folder, manifest)
    _require_unseen(scored, manifest, manifest.measured_watermark)
    group.log(
        f"{manifest.model} v{manifest.number} has learned rows that are held out here: its weights from before its "
        f"tail are compared with, trained up to {manifest.measured_watermark}"
    )
    return load_foundation(folder, manifest, weights=manifest.measured_weights)


def _require_unseen(scored: ScoredRows, manifest: Manifest, watermark: str) -> None:
    if _saw(scored, watermark):
        raise RecastError(
            "BaselineSawLabels",
            f"{manifest.model} v{manifest.number} has learned labels up to {watermark}, "
            "beyond the start of the held-out rows",
        )


def _saw(scored: ScoredRows, watermark: str) -> bool:
    return bool((scored.available_at <= clock.from_rfc3339(watermark)).any())


def _usable_rows(stream: Stream, log: Sequence[tae_log.LogFile]) -> list[UsableRows]:
    """Rows of the log by surface and phase."""
    found: dict[str, Counter[str]] = {"prequential": Counter(), "tail": Counter()}
    for file in log:
        found[file.phase].update(file.count())
    return [
        UsableRows(surface=surface, prequential=found["prequential"][surface], tail=found["tail"][surface])
        for surface in stream.dataset.surface_names
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
        tail=landing.tail,
    )
