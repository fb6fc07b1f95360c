"""Where labels depend on the request's context alone, networks that know it predict them, and others cannot."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_builders import DATASET, ITEMS, expert_config, foundation_config, hand_rows, optimization, stream_of

from recast_model.artifact import FoundationBundle
from recast_model.context import Context, ContextFeature, Features
from recast_model.snapshot import HistorySnapshot
from recast_trainer.data.schema import ContextInfo, Rows
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.evaluation.metrics import quality
from recast_trainer.evaluation.scoring import absent
from recast_trainer.tae import log as tae_log
from recast_trainer.training import expert as expert_loop
from recast_trainer.training import probes
from recast_trainer.training.checkpoint import Checkpoints
from recast_trainer.training.expert import Examples, ExpertTrainer
from recast_trainer.training.loop import FoundationTrainer, TrainedFoundation
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream

HOURS, PER_HOUR = 10, 40
INFO = [
    ContextInfo(name="device", type="Categorical", values=["phone", "tablet", "tv"]),
    ContextInfo(name="income", type="Numeric"),
]
FEATURES: Features = tuple(ContextFeature(each.name, each.type, tuple(each.values or ())) for each in INFO)
ALONE = ProcessGroup()


@pytest.fixture(autouse=True)
def few_rows_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MIN_ROWS", 12)
    monkeypatch.setattr(expert_loop, "MIN_USABLE_ROWS", 1)


def by_context(rows: Rows) -> Rows:
    """Clicks depend on the device, likes on the income, which may be unknown: then nobody likes."""
    random = np.random.default_rng(3)
    count = rows.request_ids.max() + 1
    device, income = random.integers(0, 4, count), random.normal(50_000, 20_000, count)
    income[random.random(count) < 0.2] = np.nan
    p_click = np.array([0.2, 0.95, 0.5, 0.05])[device]
    p_like = np.nan_to_num(1 / (1 + np.exp(-(income - 50_000) / 5_000)), nan=0.05)
    truth = np.stack([p_click, p_like], 1)[rows.request_ids]
    labels = (random.random(truth.shape) < truth) & rows.label_mask
    context = Context(device[rows.request_ids, None], income[rows.request_ids, None].astype(np.float32))
    return replace(rows.with_context(context), labels=labels.astype(np.float32))


def stream(hours: int = HOURS, per_hour: int = PER_HOUR) -> Stream:
    made = stream_of(by_context(hand_rows(hours, per_hour)), hours)
    return replace(made, dataset=DATASET.model_copy(update={"context": INFO}))


def trainer(folder: Path, of: Stream, features: Features = FEATURES) -> FoundationTrainer:
    config = replace(foundation_config(), context=features)
    ordered = optimization(learning_rate="0.03", batch_size=8)
    return FoundationTrainer(of.known_by(features), config, ordered, ALONE, folder)


def ne(scored: ScoredRows, column: int) -> float:
    has = scored.mask[:, column]
    found = quality(scored.logits[has, column], scored.labels[has, column])
    assert found is not None
    return found.ne


@dataclass(frozen=True)
class Foundations:
    stream: Stream
    folder: Path
    informed: TrainedFoundation
    blind: TrainedFoundation


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Foundations:
    folder, made = tmp_path_factory.mktemp("foundations"), stream()
    informed, blind = trainer(folder / "informed", made), trainer(folder / "blind", made, ())
    return Foundations(made, folder / "informed", informed.train(), blind.train())


@pytest.mark.parametrize("task", [0, 1], ids=["by a value", "by a number"])
def test_a_foundation_that_knows_context_predicts_what_depends_on_it(both: Foundations, task: int) -> None:
    assert ne(both.blind.tail, task) > 0.98
    assert ne(both.informed.tail, task) < 0.8


def test_mean_and_scale_are_of_the_segments_that_were_learned_first(both: Foundations) -> None:
    encoder = both.informed.model.tokens.request_context
    assert encoder is not None
    rows = hand_rows(HOURS, PER_HOUR)
    every = by_context(rows).take(np.unique(rows.request_ids, return_index=True)[1]).context_numbers
    assert float(encoder.count[0]) == (~np.isnan(every)).sum()  # a stream of so few that all count
    assert float(encoder.mean[0]) == pytest.approx(np.nanmean(every.astype(np.float64)), rel=1e-9)
    assert float(encoder.scale[0]) == pytest.approx(np.nanstd(every.astype(np.float64)), rel=1e-9)


def an_expert(both: Foundations, folder: Path, features: Features, checkpoints: Checkpoints | None = None) -> Any:
    """An expert that is given no TAE, so that all it knows it reads itself, of a foundation that reads as much."""
    model = (both.informed if features else both.blind).model
    source = FoundationBundle(model, ITEMS, HistorySnapshot.concatenate([], 0))
    config = replace(expert_config(), context=features, dropout=0.0)
    found = Examples(
        both.stream.known_by(features), both.folder / tae_log.FOLDER, "reels", 6,
        instead=lambda example: absent(example.requests, 4),
    )  # fmt: skip
    ordered = optimization(learning_rate="0.02", batch_size=8, epochs=3)
    return ExpertTrainer(source, config, ordered, ALONE, found, checkpoints), found


def test_an_experts_own_network_reads_context_too(both: Foundations, tmp_path: Path) -> None:
    found = {}
    for name, features in (("informed", FEATURES), ("blind", ())):
        made, examples = an_expert(both, tmp_path, features)
        made.train()
        found[name] = ne(made.measure(examples.over(examples.held_out)), 0)
    assert found["blind"] > 0.95
    assert found["informed"] < 0.85


def test_an_expert_reads_numbers_as_its_foundation_does(both: Foundations, tmp_path: Path) -> None:
    made, _ = an_expert(both, tmp_path, FEATURES)
    own, theirs = made.model.tokens.request_context, both.informed.model.tokens.request_context
    assert theirs is not None
    assert (own.mean.tolist(), own.scale.tolist()) == (theirs.mean.tolist(), theirs.scale.tolist())


@pytest.mark.parametrize("where", ["learn", "_log", "_learn_through"])
def test_a_run_in_context_that_is_cut_off_goes_on_to_the_same_bits(tmp_path: Path, where: str) -> None:
    given = stream(6, 8)
    whole = trainer(tmp_path / "whole", given).train()
    cut = trainer(tmp_path / "cut", given)
    part, calls = getattr(cut, where), itertools.count(where == "_learn_through" and 2)

    def dies(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("killed")
        return part(*arguments)

    setattr(cut, where, dies)
    with pytest.raises(RuntimeError, match="killed"):
        cut.train()
    again = trainer(tmp_path / "cut", given).train()
    state = whole.model.state_dict()
    assert [name for name, value in again.model.state_dict().items() if not torch.equal(value, state[name])] == []
    assert float(state["tokens.request_context.count"][0]) > 20
    assert np.array_equal(again.tail.logits, whole.tail.logits)


def test_an_experts_run_in_context_that_is_cut_off_goes_on_to_the_same_bits(
    both: Foundations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_loop, "CHECKPOINT_SECONDS", 0.0)
    whole, _ = an_expert(both, tmp_path, FEATURES)
    expected = whole.train().state_dict()
    cut, _ = an_expert(both, tmp_path, FEATURES, Checkpoints(tmp_path, "f"))
    step, calls = cut.learner.step, itertools.count()

    def dies(*arguments: Any) -> None:
        if next(calls) == 20:
            raise RuntimeError("killed")
        step(*arguments)

    cut.learner.step = dies
    with pytest.raises(RuntimeError, match="killed"):
        cut.train()
    resumed, _ = an_expert(both, tmp_path, FEATURES, Checkpoints(tmp_path, "f"))
    found = resumed.train().state_dict()
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []


def test_a_label_is_no_context(both: Foundations) -> None:
    """What a batch says of a request is the same whatever came of it."""
    (_, requests), *_ = both.stream.walk(6)
    other = replace(requests, rows=replace(requests.rows, labels=1 - requests.rows.labels))
    one, two = requests.batch(ITEMS), other.batch(ITEMS)
    np.testing.assert_array_equal(one.context_values, two.context_values)
    np.testing.assert_array_equal(one.context_numbers, two.context_numbers)
    assert not np.array_equal(one.labels, two.labels)
