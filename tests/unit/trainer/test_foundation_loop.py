"""The loop's two times: what a model had learned when it embedded a segment, and when a label may be learned."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from trainer_builders import (
    DATASET,
    HOUR,
    ITEMS,
    SLATE,
    START,
    delayed,
    foundation_config,
    hand_rows,
    optimization,
    requests_of,
    stream_of,
)

from recast_api.resources.common import Optimizer
from recast_api.run import RecastError
from recast_model.artifact import load_weights
from recast_model.foundation import FoundationModel
from recast_model.inference import embed, embed_and_predict
from recast_trainer.data.requests import Requests
from recast_trainer.data.schema import segment_name
from recast_trainer.evaluation import scoring
from recast_trainer.evaluation.scoring import RequestTae
from recast_trainer.tae import log as tae_log
from recast_trainer.training import loop, probes
from recast_trainer.training import step as learner_step
from recast_trainer.training.loop import FoundationTrainer, TrainedFoundation, global_batches
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream, on_device

HOURS, PER_HOUR, LEARN = 7, 6, 5  # two of seven segments are the tail


@pytest.fixture(autouse=True)
def few_rows_tell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of these tests have twelve rows."""
    if "told" not in request.fixturenames and "nothing_can_be_told" not in request.node.name:
        monkeypatch.setattr(probes, "MIN_ROWS", 12)


def trainer(folder: Path, stream: Stream, fingerprint: str = "f") -> FoundationTrainer:
    return FoundationTrainer(stream, foundation_config(), optimization(), ProcessGroup(), folder, fingerprint)


def logged(folder: Path, phase: tae_log.Phase) -> dict[int, tae_log.TaeRows]:
    """All surfaces' rows by segment, in the order of row ids."""
    found = {}
    for file in tae_log.files(folder / "tae", phase):
        parts = [file.read(surface) for surface in DATASET.surface_names]
        rows = tae_log.TaeRows(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))
        index = int(file.path.name.split("-")[0])
        assert file.segment == segment_name(START + index * HOUR)
        found[index] = rows.select(np.argsort(rows.row_ids))
    return found


class Watched(FoundationTrainer):
    """Notes which rows' labels each update learned, and what the model makes of a segment before it learns from it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.learned: list[list[int]] = []
        self.before: dict[int, bytes] = {}
        self.done: list[float] = []
        step = self.learner.step
        model = self.model.forward

        def forward(batch: Any) -> Any:
            if self.model.training:
                self.learned[-1] += batch.row_ids[batch.label_mask.any(-1)].tolist()
            return model(batch)

        def watched(loss: Any, done: float) -> None:
            self.learned.append([])
            self.done.append(done)
            step(loss, done)

        self.learner.step = watched  # type: ignore[method-assign]
        self.model.forward = forward  # type: ignore[method-assign]

    def learn(self, requests: Any) -> None:
        batch = on_device(requests, ITEMS, self.group)
        segment = (self.watermark + 1 - START) // HOUR - 1
        self.before[segment] = embed(self.model, batch)[batch.candidate_mask].numpy().tobytes()
        super().learn(requests)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watched, TrainedFoundation, Path]:
    folder = tmp_path_factory.mktemp("run")
    patch = pytest.MonkeyPatch()
    patch.setattr(probes, "MIN_ROWS", 12)
    made = Watched(
        stream_of(hand_rows(HOURS, PER_HOUR), HOURS), foundation_config(), optimization(), ProcessGroup(), folder, "f"
    )
    trained = made.train()
    patch.undo()
    return made, trained, folder


Run = tuple[Watched, TrainedFoundation, Path]


def test_a_segment_is_embedded_by_a_model_that_has_learned_what_was_known_before_it_began(run: Run) -> None:
    _, _, folder = run
    found = logged(folder, "prequential")
    assert sorted(found) == list(range(LEARN))
    for segment, rows in found.items():
        first = segment * PER_HOUR * SLATE + 1
        assert rows.row_ids.tolist() == list(range(first, first + PER_HOUR * SLATE))
        assert set(rows.cursor.tolist()) == {START + segment * HOUR - 1}


def test_the_log_holds_the_embeddings_from_before_the_segment_was_learned(run: Run) -> None:
    watched, _, folder = run
    for segment, rows in logged(folder, "prequential").items():
        assert rows.tae.tobytes() == watched.before[segment]
    assert len(set(watched.before.values())) == HOURS


def measured(trained: TrainedFoundation) -> FoundationModel:
    """The weights from before the tail."""
    model = FoundationModel(foundation_config(), torch.from_numpy(ITEMS.content_matrix()))
    load_weights(model, trained.through.weights)
    return model


def same_weights(one: FoundationModel, other: FoundationModel) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_the_tail_is_embedded_and_scored_by_the_weights_from_before_it(run: Run) -> None:
    watched, trained, folder = run
    found = logged(folder, "tail")
    assert sorted(found) == [LEARN, LEARN + 1]
    assert (trained.split.learn, trained.split.held_out, trained.split.end) == (LEARN, LEARN + 1, HOURS)
    assert trained.through.watermark == START + LEARN * HOUR - 1
    before, place = measured(trained), 0
    assert not same_weights(before, trained.model)
    for segment, rows in found.items():
        assert set(rows.cursor.tolist()) == {trained.through.watermark}
        batch = on_device(requests_of(watched.stream, segment), ITEMS, ProcessGroup())
        tae, logits = embed_and_predict(before, batch)
        assert rows.tae.tobytes() == tae[batch.candidate_mask].numpy().tobytes()
        expected = logits[batch.candidate_mask].numpy().astype(np.float64)
        assert np.array_equal(trained.tail.logits[place : place + len(rows)], expected)
        place += len(rows)
    assert trained.tail.row_ids.tolist() == list(range(LEARN * PER_HOUR * SLATE + 1, HOURS * PER_HOUR * SLATE + 1))
    assert trained.finite


def test_weights_in_motion_score_each_segment_of_the_tail_before_they_learn_it(run: Run) -> None:
    _, trained, _ = run
    first = PER_HOUR * SLATE
    fixed, moving = trained.tail.logits, trained.through.moving.logits
    assert trained.through.moving.row_ids.tolist() == trained.tail.row_ids.tolist()
    assert np.array_equal(fixed[:first], moving[:first])  # nothing of the tail was learned yet
    assert not (fixed[first:] == moving[first:]).any()


def test_what_serves_has_learned_the_tail_at_the_rate_of_the_runs_end(run: Run) -> None:
    watched, trained, folder = run
    assert trained.through.refused == ""
    assert trained.watermark == START + HOURS * HOUR - 1
    assert watched.done[-4:] == [1.0] * 4
    then, now = [], []
    for segment, rows in logged(folder, "tail").items():
        batch = on_device(requests_of(watched.stream, segment), ITEMS, ProcessGroup())
        then.append(rows.tae.astype(np.float64))
        now.append(embed(trained.model, batch)[batch.candidate_mask].numpy().astype(np.float64))
    found = [
        (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        for one, other in ((a - a.mean(0), b - b.mean(0)) for a, b in zip(then, now, strict=True))
    ]
    assert trained.through.similarity == pytest.approx(np.mean(found), abs=1e-5)
    assert 0.9 < trained.through.similarity < 1


def test_an_item_that_first_appears_in_the_tail_is_known_to_what_serves_alone(tmp_path: Path) -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    late = rows.event_times >= START + LEARN * HOUR
    rows = replace(rows, items=np.where(late, 139, np.minimum(rows.items, 138)))
    trained = trainer(tmp_path, stream_of(rows, HOURS)).train()
    row = ITEMS.index(np.array([139]))[0]
    before, now = (model.state_dict()["tokens.items.weight"][row] for model in (measured(trained), trained.model))
    assert not before.any()
    assert now.all()


def test_a_label_that_is_not_known_when_the_data_end_is_never_learned(tmp_path: Path) -> None:
    last = HOURS * PER_HOUR * SLATE  # shown ten minutes before the end
    rows = delayed(hand_rows(HOURS, PER_HOUR), {last - 2: 20 * 60_000 - 1, last: 10 * 60_000})
    made = Watched(stream_of(rows, HOURS), foundation_config(), optimization(), ProcessGroup(), tmp_path, "f")
    made.train()
    assert sorted(row for rows in made.learned for row in rows) == list(range(1, last))
    assert made.pending is not None
    assert made.pending.rows.row_ids.tolist() == [last - 1, last]
    assert made.pending.rows.label_mask.any(1).tolist() == [False, True]


def refuses(made: FoundationTrainer, trained: TrainedFoundation, says: str) -> None:
    """What was measured serves, and what became of the step is said."""
    assert says in trained.through.refused
    assert same_weights(measured(trained), trained.model)
    assert trained.watermark == trained.through.watermark == START + LEARN * HOUR - 1
    assert trained.finite
    assert trained.histories.until == START + HOURS * HOUR
    assert len(trained.through.moving.row_ids) == len(trained.tail.row_ids)
    assert made.segment == LEARN


def test_a_step_through_the_tail_that_turns_the_embedding_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    usually = learner_step.cool_down
    monkeypatch.setattr(learner_step, "cool_down", lambda share, done: 300.0 if done == 1.0 else usually(share, done))
    made = trainer(tmp_path, stream_of(hand_rows(HOURS, PER_HOUR), HOURS))
    trained = made.train()
    refuses(made, trained, "the TAE turned: similarity")
    assert trained.through.similarity < 0.8
    _, usual, folder = run
    assert trained.similarities != usual.similarities  # to what serves, which is another
    for name in ("00005-tail.parquet", "00006-tail.parquet"):
        assert (tmp_path / "tae" / name).read_bytes() == (folder / "tae" / name).read_bytes()


@pytest.mark.parametrize("reason", ["NotFinite", "AnyOther"])
def test_a_gradient_of_the_tail_that_is_not_finite_leaves_what_was_measured(tmp_path: Path, reason: str) -> None:
    made = trainer(tmp_path, stream_of(hand_rows(HOURS, PER_HOUR), HOURS))
    learn = made.learner.step
    calls = itertools.count()

    def fails(loss: Any, done: float) -> None:
        if done == 1.0 and next(calls) == 1:
            raise RecastError(reason, "the gradient of step 11 is not finite")
        learn(loss, done)

    made.learner.step = fails  # type: ignore[method-assign]
    if reason == "NotFinite":
        refuses(made, made.train(), "the gradient of step 11 is not finite")
        assert next(calls) == 2  # nothing of the tail is learned after it
    else:
        with pytest.raises(RecastError, match="is not finite"):
            made.train()


def test_weights_that_the_tail_made_infinite_do_not_serve(tmp_path: Path) -> None:
    made = trainer(tmp_path, stream_of(hand_rows(HOURS, PER_HOUR), HOURS))
    learn = made.learner.step

    def overflows(loss: Any, done: float) -> None:
        learn(loss, done)
        if done == 1.0:
            made.model.heads.bias.data[0] = torch.inf

    made.learner.step = overflows  # type: ignore[method-assign]
    refuses(made, made.train(), "a weight is not finite")


def test_the_tail_lasts_as_long_as_was_ordered(tmp_path: Path) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS)
    made = FoundationTrainer(stream, foundation_config(), optimization(), ProcessGroup(), tmp_path, "f", 4 * HOUR)
    trained = made.train()
    assert (trained.split.learn, trained.split.held_out) == (3, 5)
    assert sorted(logged(tmp_path, "tail")) == [3, 4, 5, 6]


def test_every_request_is_learned_once_in_time_order(run: Run) -> None:
    watched, _, _ = run
    assert [row for rows in watched.learned for row in rows] == list(range(1, HOURS * PER_HOUR * SLATE + 1))
    assert all(len(rows) <= 4 * SLATE for rows in watched.learned)
    assert watched.learner.steps == len(watched.learned) == HOURS * 2


def test_a_step_knows_how_much_of_the_run_is_over(run: Run) -> None:
    watched, _, _ = run
    expected = [(min(segment, LEARN) + place / 2) / LEARN for segment in range(HOURS) for place in range(2)]
    assert watched.done == [min(1.0, done) for done in expected]


def test_a_segments_likeness_to_the_final_version_is_that_of_the_model_which_embedded_it(run: Run) -> None:
    watched, trained, folder = run
    assert len(trained.similarities) == LEARN
    for segment, likeness in enumerate(trained.similarities):
        then = torch.from_numpy(logged(folder, "prequential")[segment].tae).float()
        batch = on_device(requests_of(watched.stream, segment), ITEMS, ProcessGroup())
        final = embed(trained.model, batch)[batch.candidate_mask].float()
        cosine = torch.nn.functional.cosine_similarity(then - then.mean(0), final - final.mean(0), dim=1).mean()
        assert likeness == pytest.approx(float(cosine), abs=1e-5)


def test_probes_are_from_all_over_a_segment_and_the_leaders_alone_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "MIN_ROWS", 1)
    requests = requests_of(stream_of(hand_rows(1, 12), 1))
    tae = np.repeat(requests.rows.row_ids[:, None], 4, 1).astype(np.float16)
    for count, step in ((64, 1), (6, 2), (5, 2), (1, 12)):
        monkeypatch.setattr(probes, "PROBES", count)
        probes.Probes(tmp_path, ProcessGroup()).keep(3, requests, tae)
        kept = load_file(tmp_path / "00003.safetensors")
        found = Requests.from_arrays(kept)
        assert found.rows.row_ids[found.starts].tolist() == [2 * place + 1 for place in range(0, 12, step)][:count]
        assert kept["tae"][:, 0].tolist() == found.rows.row_ids.tolist()
    probes.Probes(tmp_path / "other", ProcessGroup(rank=1, size=2)).keep(3, requests, tae)
    assert not (tmp_path / "other").exists()


def test_probes_are_the_leaders_alone_to_read_and_every_process_embeds_some(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that passes over a file that it alone does not see yet would leave the others waiting for its rows."""
    watched, trained, _ = run
    group = ProcessGroup(rank=1, size=2)
    leaders = watched.probes
    sent = [leaders._read(index) for index in reversed(range(LEARN))]
    assert all(sent)
    monkeypatch.setattr(ProcessGroup, "broadcast", lambda _, data: pytest.fail("it read") if data else sent.pop(0))
    shared: list[ProcessGroup] = []

    def computed(model: Any, requests: Requests, items: Any, by: ProcessGroup) -> RequestTae:
        shared.append(by)
        return scoring.computed(model, requests, items, ProcessGroup())

    monkeypatch.setattr(probes, "computed", computed)
    theirs = probes.Probes(leaders.folder, group).similarities(watched.model, ITEMS, range(LEARN))
    assert theirs == trained.similarities
    assert shared == [group] * LEARN


@pytest.mark.parametrize(("left", "told"), [(0, False), (7, False), (8, True)])
def test_a_segment_with_too_few_rows_to_tell_counts_as_the_next_one(tmp_path: Path, left: int, told: bool) -> None:
    """Eight requests of two rows are enough. A quiet hour must not make all before it useless."""
    rows = hand_rows(HOURS, 10)
    ids = np.arange(1 * 10 * SLATE + left * SLATE, 2 * 10 * SLATE) + 1
    similarities = trainer(tmp_path, stream_of(rows.take(~np.isin(rows.row_ids, ids)), HOURS)).train().similarities
    assert (similarities[1] != similarities[2]) is told
    assert len(set(similarities)) == LEARN - (not told)


def test_where_nothing_can_be_told_everything_counts_as_burned_in(tmp_path: Path) -> None:
    assert trainer(tmp_path, stream_of(hand_rows(HOURS, 2), HOURS)).train().similarities == [1.0] * LEARN


def test_probes_of_an_attempt_that_is_not_gone_on_with_are_forgotten(tmp_path: Path) -> None:
    stale = tmp_path / "probes" / "00009.safetensors"
    stale.parent.mkdir()
    stale.write_bytes(b"of other inputs")
    trainer(tmp_path, stream_of(hand_rows(HOURS, PER_HOUR), HOURS)).train()
    assert sorted(path.name for path in stale.parent.iterdir()) == [f"{n:05d}.safetensors" for n in range(HOURS)]


def test_heads_start_from_the_base_rates_of_what_is_learned_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS)
    made = trainer(tmp_path, stream)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = made.learner.step

    def noted(loss: Any, done: float) -> None:
        seen.append((made.model.heads.bias.detach().clone(), made.model.align[:, -1].detach().clone()))
        step(loss, done)

    made.learner.step = noted  # type: ignore[method-assign]
    first = requests_of(stream, 0)
    made.watermark = stream.segments[0].end - 1
    made.learn(first)
    rates = first.base_rates(2)
    torch.testing.assert_close(seen[0][1], torch.logit(rates).nan_to_num().float())
    torch.testing.assert_close(seen[0][0], torch.logit(rates).nanmean(0).float())
    monkeypatch.setattr(made.model, "set_base_rates", lambda _: pytest.fail("what heads have learned is overwritten"))
    made.learn(requests_of(stream, 1))


def test_the_optimisers_settings_are_those_of_the_run_with_a_rate_of_their_own_for_tables(tmp_path: Path) -> None:
    optimizer = Optimizer(table_learning_rate="0.5", warm_up_steps=7)
    ordered = optimization(learning_rate="0.02", optimizer=optimizer)
    stream = stream_of(hand_rows(HOURS, PER_HOUR), HOURS)
    made = FoundationTrainer(stream, foundation_config(), ordered, ProcessGroup(), tmp_path)
    assert (made.learner.learning_rate, made.learner.settings) == (0.02, optimizer)
    rates = {table.optimizer.learning_rate for _, table in made.model.tables() if table.optimizer}
    assert rates == {0.5}


def test_a_label_is_learned_at_the_end_of_the_segment_in_which_it_matured_and_not_before(tmp_path: Path) -> None:
    # Of the first segment's six requests, one at each edge.
    last = HOUR - 1
    rows = delayed(
        hand_rows(HOURS, PER_HOUR),
        {
            1: last,  # the last instant of segment 0: learned with it
            3: last - 10 * 60_000 + 1,  # shown ten minutes later: the first instant of segment 1, so learned there
            6: 2 * HOUR,  # one of two rows: the other does not wait for it until segment 2
            8: 100 * HOUR,  # after all data: never learned
        },
    )
    made = Watched(stream_of(rows, HOURS), foundation_config(), optimization(), ProcessGroup(), tmp_path, "f")
    after: dict[int, list[int]] = {}
    learn = made.learn

    def noted(requests: Any) -> None:
        so_far = len(made.learned)
        learn(requests)
        after[made.segment] = [row for step in made.learned[so_far:] for row in step]

    made.learn = noted  # type: ignore[method-assign]
    made.train()
    per_segment = PER_HOUR * SLATE
    assert after[0] == [1, 2, 4, 5, 7, *range(9, per_segment + 1)]
    assert after[1] == [3, *range(per_segment + 1, 2 * per_segment + 1)]  # what waited comes first
    assert after[2] == [6, *range(2 * per_segment + 1, 3 * per_segment + 1)]
    assert made.pending is not None
    assert made.pending.rows.row_ids.tolist() == [7, 8]
    assert made.pending.rows.label_mask.tolist() == [[False, False], [True, True]]
    assert not any(8 in step for step in made.learned)


DELAYS = st.lists(st.sampled_from([0, 1000, HOUR - 1, HOUR, 2 * HOUR + 7, 100 * HOUR]), min_size=24, max_size=24)


@settings(max_examples=20, deadline=None)
@given(DELAYS)
def test_every_label_is_learned_once_as_soon_as_it_is_known(delays: list[int]) -> None:
    """Of six requests of two rows with two labels each, by a loop over all labels."""
    rows = hand_rows(6, 1)
    rows = replace(rows, available_at=rows.event_times[:, None] + np.array(delays).reshape(12, 2))
    with TemporaryDirectory() as folder:
        made = trainer(Path(folder), stream_of(rows, 6))
    learned: list[tuple[int, int, int]] = []

    def noted(loss: Any, done: float) -> None:
        (batch,) = loss.args
        row, place, task = np.nonzero(batch.label_mask.numpy() & batch.candidate_mask.numpy()[..., None])
        ids = batch.row_ids.numpy()[row, place]
        learned.extend((hour, int(of), int(which)) for of, which in zip(ids, task, strict=True))

    made.learner.step = noted  # type: ignore[method-assign]
    for hour, requests in made.stream.walk(4):
        made.watermark = made.stream.segments[hour].end - 1
        made.learn(requests)
    expected = []
    for place, task in zip(*np.nonzero(rows.label_mask), strict=True):
        hour = int(rows.available_at[place, task] - START) // HOUR
        expected += [(hour, int(rows.row_ids[place]), int(task))] if hour < 6 else []
    assert sorted(learned) == sorted(expected)


class WaitsForAll(FoundationTrainer):
    """Learns a request once all of its labels are known."""

    def learn(self, requests: Requests) -> None:
        waiting = self._wait_for(requests)
        mature = waiting.matured <= self.watermark
        ready, self.pending = waiting.take(mature), waiting.take(~mature)
        if not self.learner.steps:
            self.model.set_base_rates(ready.base_rates(2))
        batches = list(global_batches(np.arange(len(ready)), self.optimization.batch_size))
        for place, chunk in enumerate(batches):
            batch = on_device(ready.take(chunk), ITEMS, self.group)
            done = (self.segment + place / len(batches)) / self.split.learn
            self.learner.step(functools.partial(self._loss, batch), min(1.0, done))


def test_where_a_requests_labels_are_known_together_learning_is_to_the_bit_that_of_whole_requests(
    tmp_path: Path,
) -> None:
    delays = {row: hours * HOUR for first, hours in ((3, 1), (13, 2), (15, 100)) for row in (first, first + 1)}
    stream = stream_of(delayed(hand_rows(HOURS, PER_HOUR), delays), HOURS)
    whole = WaitsForAll(stream, foundation_config(), optimization(), ProcessGroup(), tmp_path / "whole", "f").train()
    state = whole.model.state_dict()
    found = trainer(tmp_path / "labels", stream).train().model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_heads_of_tasks_that_have_no_rate_stay_as_they_are(tmp_path: Path) -> None:
    model = trainer(tmp_path, stream_of(hand_rows(HOURS, PER_HOUR), HOURS)).model
    bias, align = model.heads.bias.clone(), model.align.clone()
    model.set_base_rates(torch.tensor([[torch.nan, torch.nan], [0.25, torch.nan]]))
    assert model.heads.bias.tolist() == [pytest.approx(-np.log(3)), float(bias[1])]
    assert model.align[:, -1, 0].tolist() == [0.0, pytest.approx(-np.log(3))]
    assert torch.equal(model.align[..., 1], align[..., 1])


def test_the_heads_of_a_task_that_is_known_later_start_from_its_base_rates_then(tmp_path: Path) -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    rows.available_at[:, 1] += 2 * HOUR  # nobody knows a like before the third segment
    stream = stream_of(rows, HOURS)
    made = trainer(tmp_path, stream)
    begun: list[torch.Tensor] = []
    made.model.set_base_rates = begun.append  # type: ignore[method-assign,assignment]
    for segment, requests in list(stream.walk(6))[:4]:
        made.watermark = stream.segments[segment].end - 1
        made.learn(requests)
    first = requests_of(stream, 0).base_rates(2)
    assert [rates.isnan().all(0).tolist() for rates in begun] == [[False, True], [True, False]]
    torch.testing.assert_close(begun[0][:, 0], first[:, 0])
    torch.testing.assert_close(begun[1][:, 1], first[:, 1], equal_nan=True)
    made._save()
    again = trainer(tmp_path, stream)
    again._resume()
    assert again.begun.tolist() == [True, True]


@pytest.mark.parametrize(
    ("where", "call"),
    [("learn", 3), ("_log", LEARN + 1), ("_learn_through", 0), ("learn", LEARN + 1)],
    ids=["learning", "measuring the tail", "between measuring and learning the tail", "learning the tail"],
)
def test_a_run_that_is_cut_off_goes_on_to_the_same_bits(tmp_path: Path, where: str, call: int) -> None:
    # Of those that wait at a cut one is learned in segment 4, one in the tail, one but for one label, and one never.
    rows = delayed(hand_rows(HOURS, PER_HOUR), {13: 3 * HOUR, 15: 100 * HOUR, 49: 2 * HOUR})
    rows.available_at[14, 1] = START + 4 * HOUR
    stream = stream_of(rows, HOURS)
    straight = trainer(tmp_path / "whole", stream)
    whole = straight.train()
    cut = trainer(tmp_path / "cut", stream)
    part = getattr(cut, where)
    calls = itertools.count()

    def dies(*given: Any) -> Any:
        if next(calls) == call:
            raise RuntimeError("killed")
        return part(*given)

    setattr(cut, where, dies)
    with pytest.raises(RuntimeError, match="killed"):
        cut.train()
    resumed = trainer(tmp_path / "cut", stream)
    trained = resumed.train()
    state = whole.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in trained.model.state_dict().items())
    assert trained.similarities == whole.similarities
    assert np.array_equal(trained.tail.logits, whole.tail.logits)
    assert np.array_equal(trained.through.moving.logits, whole.through.moving.logits)
    assert same_weights(measured(trained), measured(whole))
    assert (trained.watermark, trained.through.watermark) == (whole.watermark, whole.through.watermark)
    assert np.array_equal(resumed.entropy.sums, straight.entropy.sums)
    for made in (resumed, straight):
        assert made.pending is not None
        assert made.pending.rows.row_ids.tolist() == [15, 16]
    assert [snapshot.events.items.tolist() for snapshot in (trained.histories, whole.histories)] == [
        whole.histories.events.items.tolist()
    ] * 2
    names = sorted(path.name for path in (tmp_path / "whole" / "tae").iterdir())
    assert len(names) == HOURS
    for name in names:
        assert (tmp_path / "cut" / "tae" / name).read_bytes() == (tmp_path / "whole" / "tae" / name).read_bytes()
    other = trainer(tmp_path / "cut", stream, "another configuration")
    other._resume()
    assert other.segment == 0


def test_the_entropy_so_far_counts_learned_segments_as_they_were_predicted_once_anything_was_learned(run: Run) -> None:
    watched, _, _ = run
    rows = hand_rows(HOURS, PER_HOUR)
    past = rows.take((rows.event_times >= START + HOUR) & (rows.event_times < START + LEARN * HOUR))
    counts = watched.entropy.sums
    assert counts[:, 0].tolist() == past.label_mask.sum(0).tolist()
    assert counts[:, 1].tolist() == past.labels.sum(0).tolist()


def test_a_task_counts_in_the_entropy_so_far_from_when_its_first_labels_were_learned(tmp_path: Path) -> None:
    rows = hand_rows(HOURS, PER_HOUR)
    rows.available_at[:, 1] += 2 * HOUR  # nobody knows a like before the third segment
    made = trainer(tmp_path, stream_of(rows, HOURS))
    made.train()
    hours = (rows.event_times - START) // HOUR
    counted = [rows.label_mask[(hours >= first) & (hours < LEARN), task].sum() for task, first in enumerate((1, 3))]
    assert made.entropy.sums[:, 0].tolist() == counted


def test_progress_says_rows_per_second_and_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = itertools.count(100.0, 2.0)  # two seconds pass from one look at the clock to the next
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    trainer(tmp_path, stream_of(hand_rows(HOURS, PER_HOUR), HOURS)).train()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == LEARN
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"segment {number}/{LEARN} 2026-01-01T0{number - 1}  6 rows/s  NE so far ")
        assert line.endswith(f"  {2 * (LEARN - number)} s left")


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(0, 4, []), (1, 4, [1]), (4, 4, [4]), (5, 4, [3, 2]), (9, 4, [3, 3, 3]), (8, 4, [4, 4]), (3, 1, [1, 1, 1])],
)
def test_global_batches_are_even_and_none_is_above_the_size(count: int, size: int, sizes: list[int]) -> None:
    batches = list(global_batches(np.arange(count), size))
    assert [len(batch) for batch in batches] == sizes
    assert [row for batch in batches for row in batch.tolist()] == list(range(count))
