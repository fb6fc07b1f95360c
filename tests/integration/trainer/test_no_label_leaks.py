"""The proof of the leak rule. Labels are coin flips, each row has an item of its own, and a foundation with a large
table rate memorises them: a probe that reads labels out of TAE finds nothing in the log, and much in TAE that are
computed again after learning. The second half shows that the first could have failed.

Then the same for the whole pipeline and for histories: where answers are known at once, a request that saw its own
would tell them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_support import HOUR, expert_order, order, reference, write_memorisable

from recast_api.run import RecastError, TrainingRun
from recast_trainer.data import histories
from recast_trainer.data.requests import Requests
from recast_trainer.data.schema import Rows
from recast_trainer.evaluation.scoring import score_foundation
from recast_trainer.run import execute, foundation_config
from recast_trainer.tae.log import TaeIndex, TaeRows, files
from recast_trainer.training.loop import FoundationTrainer
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream, open_stream

Log = tuple[Stream, FoundationTrainer, TaeRows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Log:
    root = tmp_path_factory.mktemp("leak")
    write_memorisable(root / "data" / "set")
    settings = {"batchSize": 8, "learningRate": "0.01", "optimizer": {"tableLearningRate": "0.1"}}  # tables memorise
    run = order(root, optimization=settings)
    stream = open_stream(root / "data" / "set", run.data)
    trainer = FoundationTrainer(stream, foundation_config(run, stream), run.optimization, ProcessGroup(), root / "work")
    trainer.train()
    parts = [file.read("feed") for file in files(root / "work" / "tae", "prequential")]
    return stream, trainer, TaeRows(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))


def probe_auc(tae: np.ndarray, labels: np.ndarray) -> float:
    """How well a linear probe, fitted on one half, ranks the labels of the other; 0.5 knows nothing."""
    random = np.random.default_rng(0).permutation(len(tae))
    fit, test = random[::2], random[1::2]
    inputs = np.concatenate([tae.astype(np.float64), np.ones((len(tae), 1))], axis=1)
    scale = inputs.std(axis=0) + 1e-9
    x = inputs / scale
    weights = np.linalg.solve(x[fit].T @ x[fit] + 1e-2 * np.eye(x.shape[1]), x[fit].T @ (labels[fit] - 0.5))
    rank = np.argsort(np.argsort(x[test] @ weights))
    positive = labels[test] == 1
    count = positive.sum()
    return float((rank[positive].sum() - count * (count - 1) / 2) / (count * (~positive).sum()))


def labels_of(stream: Stream, rows: TaeRows) -> np.ndarray:
    every = Rows.concatenate([stream.read(segment) for segment in stream.segments])
    order_of = np.argsort(every.row_ids)
    place = order_of[np.searchsorted(every.row_ids[order_of], rows.row_ids)]
    labels: np.ndarray = every.labels[place, 0]
    return labels


def test_the_log_holds_nothing_of_the_labels_and_tae_made_after_learning_hold_them(trained: Log) -> None:
    stream, trainer, rows = trained
    walk = stream.walk(trainer.config.history_length)
    learned = Requests.concatenate([part for index, part in walk if index < trainer.split.learn])
    scored, tae = score_foundation(trainer.model, learned, stream.items, ProcessGroup())
    assert scored.row_ids.tolist() == rows.row_ids.tolist()
    # 700 test rows: the standard deviation of the AUC of a coin flip is 0.022.
    assert abs(probe_auc(rows.tae, labels_of(stream, rows)) - 0.5) < 0.08
    assert probe_auc(tae, scored.labels[:, 0]) > 0.7


def test_the_pipeline_refuses_the_recomputed_vectors_that_hold_the_labels(trained: Log) -> None:
    _, trainer, rows = trained
    leaking = TaeRows(rows.row_ids, rows.available_at, np.full(len(rows), trainer.watermark), rows.tae)
    with pytest.raises(RecastError) as caught:
        TaeIndex(leaking).lookup(rows.row_ids, rows.available_at)
    assert caught.value.termination.reason == "TaeLeak"


def test_every_logged_row_was_made_before_its_label_and_later_than_all_that_was_learned(trained: Log) -> None:
    _, trainer, rows = trained
    assert (rows.cursor < rows.available_at).all()
    assert len(np.unique(rows.cursor)) == trainer.split.learn  # the cursor moves with each segment


def coins(root: Path, **delays_ms: int) -> tuple[TrainingRun, dict[str, Any]]:
    """Coins that are flipped for each request, and known some time after the flip; what a run over them needs."""
    write_memorisable(root / "data" / "set", requests=240, slate=1, delays_ms=delays_ms)
    return order(root, optimization={"batchSize": 32, "learningRate": "0.01"}), {
        "optimization": {"batchSize": 32, "learningRate": "0.01", "epochs": 2},
        "expert": {"surface": "feed", "tasks": [{"name": task} for task in delays_ms]},
    }


def test_neither_foundation_nor_expert_beats_coins_that_are_known_at_once_or_later(tmp_path: Path) -> None:
    run, of_expert = coins(tmp_path, click=0, purchase=2 * HOUR)
    foundation = execute(run, ProcessGroup(), None)
    assert foundation is not None
    expert = execute(expert_order(tmp_path, reference(foundation), **of_expert), ProcessGroup(), None)
    assert expert is not None
    for manifest in (foundation, expert):
        assert {entry.task for entry in manifest.measurements} == {"click", "purchase"}
        assert all(float(entry.ne) > 0.99 for entry in manifest.measurements)


@pytest.mark.parametrize("leaks", ["foundation", "expert"])
def test_a_pipeline_whose_requests_see_their_own_answers_lands_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaks: str
) -> None:
    """The leak is made on purpose, so that the test above and the guard in the run are known to notice one."""
    run, of_expert = coins(tmp_path, click=0)
    if leaks == "expert":
        foundation = execute(run, ProcessGroup(), None)
        assert foundation is not None
        run = expert_order(tmp_path, reference(foundation), **of_expert)
    monkeypatch.setattr(histories, "known_after_the_request", lambda rows, _: rows.event_times[:, None] - 1)
    with pytest.raises(RecastError, match="better than by its true probability p_") as caught:
        execute(run, ProcessGroup(), None)
    assert (caught.value.termination.reason, caught.value.termination.retryable) == ("LabelLeak", False)
    assert not list((tmp_path / "models").rglob(f"{'em' if leaks == 'expert' else 'fm'}/**/manifest.json"))
