"""``recast eval compare``: what its arms read, how they are tuned, and a small one from the command to the files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from trainer_builders import (
    DATASET,
    HOUR,
    ITEMS,
    START,
    foundation_config,
    hand_rows,
    requests_of,
    stream_of,
)

from recast_api.manifest import Manifest
from recast_api.run import RecastError, TrainingRun
from recast_model.artifact import FoundationBundle
from recast_model.foundation import FoundationModel
from recast_trainer import cli
from recast_trainer.data.schema import Rows
from recast_trainer.data.writing import DatasetWriter
from recast_trainer.evaluation.compare import arms as kinds
from recast_trainer.evaluation.compare import comparison, training
from recast_trainer.evaluation.compare.arms import Foundation, base_rate_logits, shuffled, trained_arms, without
from recast_trainer.evaluation.compare.progress import Progress, remaining
from recast_trainer.evaluation.compare.results import Tried
from recast_trainer.evaluation.compare.settings import Settings, read_settings
from recast_trainer.evaluation.compare.training import Part, Recipe, candidates, choose, train
from recast_trainer.evaluation.metrics import quality
from recast_trainer.evaluation.scoring import RequestTae, score_foundation
from recast_trainer.run import execute
from recast_trainer.tae import log as tae_log
from recast_trainer.training import expert as expert_loop
from recast_trainer.training.expert import Example, Examples
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.stream import Stream

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
HOURS, PER_HOUR, LEARN = 12, 24, 8  # four of twelve segments are the tail: two older, two newer


@pytest.fixture(autouse=True)
def few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_loop, "MIN_USABLE_ROWS", 1)


# -------- what arms read --------


def example_of(users: list[int], slates: list[int]) -> Example:
    """A request for each user with so many rows, whose TAE name their request and their place in it."""
    requests = requests_of(stream_of(hand_rows(1, 4), 1))
    request = np.repeat(np.arange(len(users)), slates)
    starts = np.cumsum(slates) - slates
    place = np.arange(len(request)) - starts[request]
    rows = requests.rows.take(np.zeros(len(request), np.int64))
    rows = replace(rows, users=np.array(users, np.int64)[request], row_ids=np.arange(len(request)))
    found = replace(requests, rows=rows, starts=starts, history_lengths=np.zeros(len(users), np.int64))
    return Example(
        3, found, RequestTae(np.stack([request, place], 1).astype(np.float16), np.ones(len(users), np.bool_))
    )


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=30), st.integers(0, 3))
def test_shuffled_tae_are_those_of_other_users_each_used_once_as_far_as_there_are_others(
    given_requests: list[tuple[int, int]], seed: int
) -> None:
    users, slates = [user for user, _ in given_requests], [slate for _, slate in given_requests]
    example = example_of(users, slates)
    found = shuffled(seed, example)
    donors = found.values[example.requests.starts, 0].astype(int)
    assert sorted(donors) == list(range(len(users)))
    of_others = np.array(users)[donors] != users
    assert (found.present == of_others).all()
    if 2 * max(users.count(user) for user in users) <= len(users):
        assert of_others.all()
    for request, donor in enumerate(donors):
        rows = found.values[example.requests.rows_of(np.array([request]))]
        assert (rows[:, 0] == donor).all()
        assert list(rows[:, 1]) == [place % slates[donor] for place in range(slates[request])]
    again = shuffled(seed, example)
    assert (again.values == found.values).all()


def test_shuffled_tae_differ_by_seed_and_segment_and_what_had_none_gives_none() -> None:
    example = example_of(list(range(20)), [2] * 20)
    first = shuffled(0, example).values
    assert (first != shuffled(1, example).values).any()
    assert (first != shuffled(0, replace(example, segment=4)).values).any()
    lacking = replace(example, tae=replace(example.tae, present=np.arange(20) != 7))
    found = shuffled(0, lacking)
    assert found.values[example.requests.starts, 0].astype(int)[~found.present].tolist() == [7]


def test_an_expert_without_tae_reads_the_absent_vector_everywhere() -> None:
    found = without(4, example_of([1, 2], [2, 3]))
    assert found.values.shape == (5, 4)
    assert not found.present.any()


def network() -> FoundationModel:
    torch.manual_seed(3)
    return FoundationModel(foundation_config(), torch.from_numpy(ITEMS.content_matrix()))


def test_the_foundations_heads_on_logged_tae_say_what_it_predicts() -> None:
    model, requests = network(), requests_of(stream_of(hand_rows(2, 6), 2))
    scored, tae = score_foundation(model, requests, ITEMS, ProcessGroup())
    assert np.abs(kinds.foundation_logits(model, tae) - scored.logits).max() < 2e-3  # TAE are logged in float16


# -------- what is learned and held out --------


def log_of(folder: Path, stream: Stream, tae: NDArray[np.float32], rows: Rows, *, tail: int = LEARN) -> Path:
    """A log of ``tae`` (R, D), each made before its segment."""
    for index, segment in enumerate(stream.segments):
        here = (rows.event_times >= segment.start) & (rows.event_times < segment.end)
        cursor = np.full(int(here.sum()), min(segment.start, stream.segments[tail].start) - 1)
        found = tae_log.TaeRows(rows.row_ids[here], rows.first_known[here], cursor, tae[here].astype(np.float16))
        names = np.array(stream.dataset.surface_names)[rows.surfaces[here]]
        tae_log.write_segment(folder, index, "prequential" if index < tail else "tail", found, names, segment.name)
    return folder


def planted(folder: Path) -> tuple[Foundation, Part]:
    """A log whose TAE hold the label: what no foundation could, so that an arm that reads them shows it."""
    rows = hand_rows(HOURS, PER_HOUR)
    stream = stream_of(rows, HOURS)
    tae = np.stack([2 * rows.labels[:, 1] - 1] * 2 + [np.ones(len(rows))] * 2, 1)
    log_of(folder / tae_log.FOLDER, stream, tae, rows)
    bundle = FoundationBundle(network(), ITEMS, None)  # type: ignore[arg-type]
    examples = Examples(stream, folder / tae_log.FOLDER, "reels", 6)
    return Foundation(bundle, folder), Part.of(examples, {segment.name for segment in stream.segments})


def segments(files: list[tae_log.LogFile]) -> list[int]:
    return [int(file.path.name[:5]) for file in files]


def test_tuning_is_a_run_that_ends_where_the_held_out_window_begins(tmp_path: Path) -> None:
    _, part = planted(tmp_path)
    earlier = part.earlier()
    assert [segments(files) for files in (part.prequential, part.last_phase, part.held_out)] == [
        list(range(8)), [8, 9], [10, 11],
    ]  # fmt: skip
    assert [segments(files) for files in (earlier.prequential, earlier.last_phase, earlier.held_out)] == [
        list(range(8)), [8], [9],
    ]  # fmt: skip
    last = earlier.earlier()
    assert [segments(files) for files in (last.last_phase, last.held_out)] == [[], [8]]
    assert earlier.watermark < START + 9 * HOUR + HOUR <= part.watermark
    scored = [at for example in earlier.over(earlier.held_out) for at in example.requests.rows.first_known]
    learned = [at for phase in (earlier.prequential, earlier.last_phase) for example in earlier.learned(phase)
               for at in example.requests.rows.last_known]  # fmt: skip
    assert max(learned) <= earlier.watermark < min(scored)


def test_of_two_logs_only_common_segments_are_used(tmp_path: Path) -> None:
    _, part = planted(tmp_path)
    names = [segment.name for segment in part.stream.segments]
    some = Part.of(part, {names[0], names[3], names[8], names[11]})
    assert [segments(files) for files in (some.prequential, some.last_phase, some.held_out)] == [[0, 3], [8], [11]]


def test_the_base_rate_is_that_of_what_is_learned(tmp_path: Path) -> None:
    _, part = planted(tmp_path)
    labels = np.concatenate(
        [
            example.requests.rows.labels
            for phase in (part.prequential, part.last_phase)
            for example in part.learned(phase)
        ]
    )
    rate = 1 / (1 + np.exp(-base_rate_logits(part)))
    assert rate == pytest.approx((labels.sum(0) + 0.5) / (len(labels) + 1))
    of_feed = Part.of(replace(part, surface="feed"), {segment.name for segment in part.stream.segments})
    assert base_rate_logits(of_feed)[1] == 0  # no label of "like" is known there


def test_only_the_arm_that_reads_the_tae_learns_what_they_say_and_all_take_equally_many_steps(tmp_path: Path) -> None:
    foundation, part = planted(tmp_path)
    settings = Settings(batch_size=4, architecture={"layers": 1, "dim": 8, "heads": 2, "history_length": 6})
    ne, steps = {}, set()
    for arm in trained_arms(foundation, None):
        found = train(arm, part, Recipe("0.03", 3), 0, settings, ProcessGroup())
        steps.add((found.steps, found.rows))
        column = DATASET.tasks_of("reels").index("like")
        measured = quality(found.scored.logits[:, column], found.scored.labels[:, column])
        assert measured is not None
        ne[arm.name] = measured.ne
    assert ne[kinds.WITH] < 0.5
    assert min(ne[kinds.SHUFFLED], ne[kinds.WITHOUT]) > 0.9
    assert len(steps) == 1


def test_a_seed_gives_the_same_training_each_time_and_another_one_another(tmp_path: Path) -> None:
    foundation, part = planted(tmp_path)
    arm = trained_arms(foundation, None)[0]
    first, again, other = (
        train(arm, part, Recipe("0.01", 1), seed, quick(), ProcessGroup()).scored.logits for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


# -------- tuning --------


def tried(**ne: list[float]) -> list[Tried]:
    """NE by arm of the rates 0.1 and 0.2 with one epoch, then with three."""
    found = []
    for arm, values in ne.items():
        for (epochs, rate), value in zip([(1, "0.1"), (1, "0.2"), (3, "0.1"), (3, "0.2")], values, strict=True):
            found.append(Tried(arm, rate, epochs, value))
    return found


RECIPES = [Recipe("0.1", 1), Recipe("0.2", 1), Recipe("0.1", 3), Recipe("0.2", 3)]


@pytest.mark.parametrize(
    ("ne", "chosen"),
    [
        ({"a": [0.9, 0.8, 0.9, 0.7], "b": [0.6, 0.9, 0.5, 0.9]}, {"a": ("0.2", 3), "b": ("0.1", 3)}),
        ({"a": [0.9, 0.8, 0.9, 0.7], "b": [0.6, 0.9, 0.9, 0.9]}, {"a": ("0.2", 1), "b": ("0.1", 1)}),
        ({"a": [0.5, 0.5, 0.5, 0.5], "b": [0.5, 0.5, 0.5, 0.5]}, {"a": ("0.1", 1), "b": ("0.1", 1)}),
        ({"a": [0.9, 0.9, 0.1, float("inf")], "b": [0.9, 0.8, 0.9, 0.7]}, {"a": ("0.1", 3), "b": ("0.2", 3)}),
    ],
)
def test_each_arm_keeps_its_best_rate_at_the_number_of_epochs_that_suits_all_together(
    ne: dict[str, list[float]], chosen: dict[str, tuple[str, int]]
) -> None:
    assert choose(list(ne), RECIPES, tried(**ne)) == {arm: Recipe(*recipe) for arm, recipe in chosen.items()}


def test_where_there_is_no_choice_nothing_is_tried() -> None:
    assert choose(["a", "b"], [Recipe("0.1", 2)], []) == {"a": Recipe("0.1", 2), "b": Recipe("0.1", 2)}


def test_the_candidates_are_every_rate_with_every_number_of_epochs() -> None:
    assert candidates(Settings(learning_rates=["0.1", "0.2"], epochs=[1, 3])) == [
        Recipe("0.1", 1), Recipe("0.1", 3), Recipe("0.2", 1), Recipe("0.2", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(("reason", "stops"), [("NotFinite", False), ("LabelLeak", True)])
def test_a_recipe_that_diverges_is_the_worst_and_other_errors_end_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, stops: bool
) -> None:
    foundation, part = planted(tmp_path)

    def failing(*_: Any) -> None:
        raise RecastError(reason, "as planted")

    monkeypatch.setattr(training, "train", failing)
    arm = trained_arms(foundation, None)[0]
    if stops:
        with pytest.raises(RecastError, match="as planted"):
            training.attempt(arm, part, Recipe("9", 1), Settings(), ProcessGroup())
    else:
        found, rows = training.attempt(arm, part, Recipe("9", 1), Settings(), ProcessGroup())
        assert (found.ne, rows) == (float("inf"), 0)


def test_a_recipe_that_diverges_in_its_last_step_is_the_worst_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foundation, part = planted(tmp_path)
    arm = trained_arms(foundation, None)[0]
    whole = training.train

    def diverging(*given: Any) -> training.Trained:
        found = whole(*given)
        found.scored.logits[-1] = np.nan
        return found

    monkeypatch.setattr(training, "train", diverging)
    found, rows = training.attempt(arm, part, Recipe("0.01", 1), quick(), ProcessGroup())
    assert found.ne == float("inf")
    assert rows > 0


# -------- settings --------


def test_the_example_holds_the_defaults_and_every_field() -> None:
    found = read_settings(EXAMPLES / "compare.yaml")
    assert found.wire() == Settings().wire() | {"surfaces": ["reels", "ads"]}
    assert found.all_seeds == [0, 1, 2, 3, 4]
    assert Settings(first_seed=7, seeds=2).all_seeds == [7, 8]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds: 0", "seeds: Input should be greater than or equal to 1; correct it"),
        ("seeds: five", "seeds: Input should be a valid integer"),
        ("learningRates: [0.003]", 'learningRates.0: Input should be a valid string; write it in quotes, as "0.003"'),
        ('learningRates: ["fast"]', "learningRates.0: String should match"),
        ('learningRates: ["0.0"]', "learningRates must be above 0"),
        ('learningRates: ["0.003", "0"]', "learningRates must be above 0"),
        ('learningRates: ["0.1", "0.10"]', "learningRates must not repeat one"),
        ("learningRates: []", "learningRates: List should have at least 1 item"),
        ("epochs: [2, 2]", "epochs must not repeat one"),
        ("surfaces: [reels, reels]", "surfaces must not repeat one"),
        ("epoch: [2]", "epoch: Extra inputs are not permitted; the fields are architecture, batchSize, epochs,"),
        ("architecture: {dim: 9, heads: 2}", "dim must be a multiple of heads"),
        ("- 1", "must hold fields such as seeds: 5"),
        ("", "must hold fields such as seeds: 5"),
        ("seeds: [", "cannot be read as YAML"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_what_to_do(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(RecastError) as caught:
        read_settings(tmp_path / "c.yaml")
    assert says in str(caught.value)
    assert str(tmp_path / "c.yaml") in str(caught.value)
    assert caught.value.termination.reason == "BadSpec"


def test_settings_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecastError, match="cannot be read as YAML"):
        read_settings(tmp_path / "nowhere.yaml")


# -------- progress --------


def test_a_line_for_each_training_says_how_long_the_rest_will_take() -> None:
    lines: list[str] = []
    times = iter([0.0, 10.0, 40.0, 50.0])
    progress = Progress(12, 100, lines.append, lambda: next(times))
    progress.less(40)
    progress.finished("one", 10)
    progress.finished("two", 30)
    progress.finished("three", 30)
    assert lines == [
        "[ 1/12] one, 10 s; about 50 s left",
        "[ 2/12] two, 30 s; about 20 s left",
        "[ 3/12] three, 10 s; about 0 s left",
    ]


def test_a_time_that_is_left_is_said_in_minutes_where_it_is_long() -> None:
    assert [remaining(seconds) for seconds in (119, 120, 3600)] == [
        "about 119 s left", "about 2 min left", "about 60 min left",
    ]  # fmt: skip


# -------- all of it --------


@dataclass(frozen=True)
class World:
    root: Path
    foundation: Manifest

    @property
    def data(self) -> Path:
        return self.root / "set"

    @property
    def version(self) -> Path:
        return self.root / "models" / "fm" / "home-fm" / "u1" / "v1"


def order(root: Path, **changes: Any) -> TrainingRun:
    return TrainingRun.model_validate(
        {
            "kind": "FoundationModel", "namespace": "demo", "model": "home-fm", "uid": "u1", "number": 1,
            "attempt": 1, "jobName": "j", "inputsHash": "h1", "modelsRoot": str(root / "models"),
            "dataRoot": str(root), "data": {"path": "set"},
            "optimization": {"batchSize": 8, "learningRate": "0.003"},
            "architecture": {"layers": 1, "dim": 8, "heads": 2, "historyLength": 6, "taeDim": 4},
        }
        | changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    rows = hand_rows(HOURS, PER_HOUR)
    rows = replace(rows, oracle=np.where(rows.label_mask, 0.5, np.nan).astype(np.float32))
    writer = DatasetWriter(root / "set", DATASET)
    writer.items(ITEMS)
    for start in range(START, START + HOURS * HOUR, HOUR):
        writer.segment(start, rows.take((rows.event_times >= start) & (rows.event_times < start + HOUR)))
    writer.finish()
    manifest = execute(order(root), ProcessGroup(), None)
    assert manifest is not None
    return World(root, manifest)


SMALL = """
surfaces: [reels]
seeds: 2
learningRates: ["0.003", "0.01"]
epochs: [1]
batchSize: 8
architecture: {layers: 1, dim: 8, heads: 2, historyLength: 6}
resamples: 100
"""


def test_the_command_compares_writes_its_reports_and_says_how_far_it_is(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(SMALL)
    command = ["eval", "compare", str(world.version), "--data", str(world.data), "--settings", str(tmp_path / "c.yaml")]
    assert cli.main([*command, "--out", str(tmp_path / "a")], termination_log=tmp_path / "log") == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("[")]
    assert [line[:7] for line in lines] == [f"[{n:2}/12]" for n in range(1, 13)]  # 3 arms x (2 candidates + 2 seeds)
    assert lines[-1].endswith("about 0 s left")
    assert "epoch 1/" not in printed
    assert (tmp_path / "a" / "comparison.md").read_text().replace(
        "![NE of each arm](comparison.svg)\n\n", ""
    ) in printed
    found = json.loads((tmp_path / "a" / "comparison.json").read_text())
    (reels,) = found["surfaces"]
    assert found["foundation"] == "home-fm v1"
    assert [arm["arm"] for arm in reels["arms"]] == [
        kinds.ORACLE, kinds.WITH, kinds.HEADS, kinds.SHUFFLED, kinds.WITHOUT, kinds.BASE_RATE,
    ]  # fmt: skip
    budgets = {arm: [(t["learning_rate"], t["epochs"]) for t in reels["tried"] if t["arm"] == arm]
               for arm in (kinds.WITH, kinds.SHUFFLED, kinds.WITHOUT)}  # fmt: skip
    assert len(reels["tried"]) == 6
    assert set(map(tuple, budgets.values())) == {(("0.003", 1), ("0.01", 1))}
    steps = [arm["steps"] for arm in reels["arms"] if arm["steps"]]
    assert len(steps) == 3
    assert len({count for counts in steps for count in counts}) == 1
    assert all(len(counts) == 2 for counts in steps)
    assert reels["rows"] == 24  # one segment held out: twelve requests on reels of two rows
    assert reels["transfer"] is None


def quick(**changes: Any) -> Settings:
    return Settings.model_validate(
        {
            "surfaces": ["reels"], "seeds": 1, "learningRates": ["0.003"], "epochs": [1], "resamples": 100,
            "architecture": {"layers": 1, "dim": 8, "heads": 2, "historyLength": 6},
        }
        | changes
    )  # fmt: skip


def test_a_foundation_against_itself_has_no_gap_and_no_ratio(world: World) -> None:
    lines: list[str] = []
    found = comparison.compare(world.version, world.data, quick(), against=world.version, say=lines.append)
    (reels,) = found.surfaces
    assert len(lines) == 4  # nothing to tune: each arm once
    assert reels.tried == []
    gaps = {(gap.arm, gap.against): gap for gap in reels.gaps}
    for pair in ((kinds.WITH, kinds.WITH_OTHER), (kinds.HEADS, kinds.OTHER_HEADS)):
        assert {estimate.value for estimate in gaps[pair].difference.values()} == {0.0}
    assert reels.transfer is not None
    assert set(reels.transfer.values()) == {None}


def test_all_surfaces_are_compared_where_none_is_named(world: World) -> None:
    found = comparison.compare(world.version, world.data, quick(surfaces=[]), say=lambda _: None)
    assert [surface.surface for surface in found.surfaces] == ["feed", "reels"]


def test_foundations_that_hold_out_other_rows_are_not_compared(world: World, tmp_path: Path) -> None:
    other = order(world.root, modelsRoot=str(tmp_path), data={"path": "set", "until": "2026-01-01T10:00:00Z"})
    assert execute(other, ProcessGroup(), None) is not None
    with pytest.raises(RecastError, match="hold out other rows of reels") as caught:
        comparison.compare(
            world.version, world.data, quick(), against=tmp_path / "fm" / "home-fm" / "u1" / "v1", say=lambda _: None
        )
    assert caught.value.termination.reason == "NotComparable"


def test_a_surface_that_the_data_do_not_have_is_named(world: World) -> None:
    with pytest.raises(RecastError, match='no surface "ads"'):
        comparison.compare(world.version, world.data, quick(surfaces=["ads"]), say=lambda _: None)


def test_data_in_which_surfaces_mean_something_else_are_refused(world: World, tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "set", DATASET.model_copy(update={"surfaces": DATASET.surfaces[::-1]}))
    writer.items(ITEMS)
    writer.segment(START, hand_rows(1, 4))
    writer.finish()
    with pytest.raises(RecastError, match="the data now have") as caught:
        comparison.compare(world.version, tmp_path / "set", quick(), say=lambda _: None)
    assert caught.value.termination.reason == "DataChanged"
