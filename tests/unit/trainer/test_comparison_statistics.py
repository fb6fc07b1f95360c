"""How sure a comparison's figures are: draws of seeds and users, gaps, and the ratio that is withheld."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from recast_api.run import RecastError
from recast_trainer.evaluation.compare import arms as kinds
from recast_trainer.evaluation.compare.measured import Measured
from recast_trainer.evaluation.compare.results import ALL_TASKS
from recast_trainer.evaluation.compare.statistics import Estimate, resample, transfer_ratio
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.evaluation.metrics import Group, quality, summed_ne

Floats = NDArray[np.float64]
DRAWS = 600


def rows_of(
    labels: Floats, users: NDArray[np.int64] | None = None, mask: NDArray[np.bool_] | None = None
) -> ScoredRows:
    count = len(labels)
    return ScoredRows(
        row_ids=np.arange(count),
        users=np.arange(count) if users is None else users,
        surfaces=np.zeros(count, np.int64),
        available_at=np.arange(count),
        labels=labels,
        mask=np.ones(labels.shape, np.bool_) if mask is None else mask,
        logits=np.zeros(labels.shape),
        truth=np.full(labels.shape, np.nan, np.float32),
    )


def coins(count: int, tasks: int = 1, rate: float = 0.3, seed: int = 0) -> Floats:
    return (np.random.default_rng([seed, 77]).random((count, tasks)) < rate).astype(np.float64)


def guesses(labels: Floats, skill: float, seed: int) -> Floats:
    """Logits around the base rate that lean towards the answer, with a noise of their own."""
    return -0.85 + skill * (labels - 0.3) + np.random.default_rng(seed).normal(0, 0.2, labels.shape)


def test_ne_is_that_of_the_rows_mean_over_seeds_and_over_tasks_by_their_losses() -> None:
    labels, users = coins(300, 2), np.arange(300) % 40
    mask = np.random.default_rng(1).random(labels.shape) < 0.8
    seeds = [guesses(labels, 1, seed) for seed in range(3)]
    found = resample(rows_of(labels, users, mask), {"arm": seeds}, draws=10)["arm"]
    for task in range(2):
        keep = mask[:, task]
        each = [quality(logits[keep, task], labels[keep, task]) for logits in seeds]
        assert found.value[task] == pytest.approx(np.mean([q.ne for q in each if q]))
    parts = [
        summed_ne([Group(users[mask[:, t]], labels[mask[:, t], t], logits[mask[:, t], t]) for t in range(2)])
        for logits in seeds
    ]
    assert found.value[2] == pytest.approx(np.mean([part for part in parts if part]))


def test_arms_that_differ_by_luck_alone_have_an_interval_around_0_and_a_better_one_has_not() -> None:
    labels = coins(1500)
    arms = {
        "one": [guesses(labels, 1.0, seed) for seed in range(5)],
        "like it": [guesses(labels, 1.0, seed + 100) for seed in range(5)],
        "better": [guesses(labels, 1.4, seed + 200) for seed in range(5)],
    }
    found = resample(rows_of(labels), arms, draws=DRAWS)
    same, better = (found[name].difference(found["one"], 0) for name in ("like it", "better"))
    assert same.low < 0 < same.high
    assert not same.excludes_zero
    assert better.high < 0
    assert better.excludes_zero
    relative = found["better"].relative(found["one"], 0)
    assert relative.value == pytest.approx(found["better"].value[0] / found["one"].value[0] - 1)
    assert relative.low < relative.value < relative.high < 0


def test_an_arm_differs_from_itself_in_no_draw() -> None:
    labels = coins(50)
    found = resample(rows_of(labels), {"arm": [guesses(labels, 1, seed) for seed in range(5)]}, draws=DRAWS)["arm"]
    assert found.difference(found, 0) == Estimate(0.0, 0.0, 0.0)


def test_seeds_alone_give_the_standard_error_of_their_mean() -> None:
    """All users are alike, so nothing but the seeds moves the figure."""
    labels = np.tile([[1.0], [0.0]], (40, 1))
    seeds = [np.full((80, 1), shift) for shift in (0.0, 0.3, 0.5, 0.9)]
    found = resample(rows_of(labels, np.repeat(np.arange(40), 2)), {"arm": seeds}, draws=20_000)["arm"]
    each = [quality(logits[:, 0], labels[:, 0]) for logits in seeds]
    expected = np.std([q.ne for q in each if q], ddof=1) / np.sqrt(len(seeds))
    assert found.draws[:, 0].std() == pytest.approx(expected, rel=0.03)


def test_a_user_brings_all_of_their_rows() -> None:
    labels = np.repeat(coins(100), 10, axis=0)
    logits = [guesses(labels, 1, 0)]
    alone = resample(rows_of(labels), {"arm": logits}, draws=DRAWS)["arm"]
    together = resample(rows_of(labels, np.repeat(np.arange(100), 10)), {"arm": logits}, draws=DRAWS)["arm"]
    assert together.draws[:, 0].std() > 2 * alone.draws[:, 0].std()


def test_the_base_rate_is_that_of_the_drawn_rows() -> None:
    """No constant can beat the drawn rows' own rate."""
    labels = coins(200)
    rate = labels.mean()
    found = resample(rows_of(labels), {"rate": [np.full(labels.shape, np.log(rate / (1 - rate)))]}, draws=500)["rate"]
    assert found.value[0] == pytest.approx(1)
    assert (found.draws[:, 0] >= 1 - 1e-9).all()
    assert found.draws[:, 0].max() > 1


def test_an_interval_holds_19_draws_of_20() -> None:
    found = Estimate.of(0.5, np.append(np.linspace(0, 1, 1001), [np.nan] * 50))
    assert (found.low, found.high) == (pytest.approx(0.025), pytest.approx(0.975))
    undefined = Estimate.of(0.5, np.full(3, np.nan))
    assert undefined.value == 0.5
    assert np.isnan([undefined.low, undefined.high]).all()


def test_draws_are_the_same_each_time_and_however_many_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = coins(60)
    arms = {"arm": [guesses(labels, 1, seed) for seed in range(2)], "fixed": [guesses(labels, 1, 9)]}
    once, again = (resample(rows_of(labels), arms, draws=100) for _ in range(2))
    assert all((once[name].draws == again[name].draws).all() for name in arms)
    monkeypatch.setattr("recast_trainer.evaluation.compare.statistics._CHUNK", 60 * 7)
    parts = resample(rows_of(labels), arms, draws=100)
    assert all(np.allclose(once[name].draws, parts[name].draws) for name in arms)


def test_an_arm_without_training_is_drawn_by_users_alone_beside_those_with_seeds() -> None:
    labels = coins(60)
    fixed = [guesses(labels, 1, 9)]
    beside = resample(
        rows_of(labels), {"arm": [guesses(labels, 1, seed) for seed in range(4)], "fixed": fixed}, draws=50
    )
    alone = resample(rows_of(labels), {"fixed": fixed}, draws=50)
    assert np.allclose(beside["fixed"].draws, alone["fixed"].draws)


def test_arms_with_other_numbers_of_seeds_cannot_be_paired() -> None:
    labels = coins(10)
    with pytest.raises(ValueError, match="as many seeds"):
        resample(rows_of(labels), {"one": [labels] * 3, "other": [labels] * 2}, draws=1)


def test_a_task_whose_labels_are_all_alike_has_no_ne_and_does_not_count_in_all_together() -> None:
    labels = np.concatenate([coins(100), np.zeros((100, 1))], 1)
    logits = guesses(labels, 1, 0)
    both = resample(rows_of(labels), {"arm": [logits]}, draws=20)["arm"]
    first = resample(rows_of(labels[:, :1]), {"arm": [logits[:, :1]]}, draws=20)["arm"]
    assert np.isnan(both.value[1])
    assert both.value[2] == pytest.approx(first.value[0])
    assert both.draws[:, 2] == pytest.approx(first.draws[:, 0])


def test_rows_whose_truth_is_unknown_leave_no_figure_of_the_oracle() -> None:
    labels = coins(100, 2)
    truth = np.full(labels.shape, 0.3, np.float32)
    truth[3, 1] = np.nan
    found = resample(rows_of(labels), {"oracle": [kinds.oracle_logits(truth)]}, draws=20)["oracle"]
    assert np.isfinite(found.value[0])
    assert np.isnan(found.value[1:]).all()


def experts_and_foundations(gap: float) -> dict[str, list[Floats]]:
    """Experts whose gap in NE is about half of that of their foundations."""
    labels = coins(4000)
    steps = np.random.default_rng(3).normal(0, 0.05, (4000, 1))
    return {
        kinds.WITH: [guesses(labels, 1.0 + gap / 2, seed) for seed in range(5)],
        kinds.WITH_OTHER: [guesses(labels, 1.0, seed) for seed in range(5)],
        kinds.HEADS: [guesses(labels, 1.0 + gap, 7)],
        kinds.OTHER_HEADS: [guesses(labels, 1.0, 7) + steps],
    }


def test_a_transfer_ratio_is_the_experts_gap_over_the_foundations() -> None:
    found = resample(rows_of(coins(4000)), experts_and_foundations(0.4), draws=DRAWS)
    ratio = transfer_ratio(
        (found[kinds.WITH], found[kinds.WITH_OTHER]), (found[kinds.HEADS], found[kinds.OTHER_HEADS]), 0
    )
    assert ratio is not None
    gaps = [
        found[a].value[0] - found[b].value[0]
        for a, b in ((kinds.WITH, kinds.WITH_OTHER), (kinds.HEADS, kinds.OTHER_HEADS))
    ]
    assert ratio.value == pytest.approx(gaps[0] / gaps[1])
    assert 0.35 < ratio.low < ratio.value < ratio.high < 0.7


def test_a_transfer_ratio_is_withheld_where_the_foundations_gap_includes_0() -> None:
    arms = experts_and_foundations(0.0) | {kinds.WITH: [guesses(coins(4000), 2.0, seed) for seed in range(5)]}
    found = resample(rows_of(coins(4000)), arms, draws=DRAWS)
    expert, foundation = (found[kinds.WITH], found[kinds.WITH_OTHER]), (found[kinds.HEADS], found[kinds.OTHER_HEADS])
    assert expert[0].difference(expert[1], 0).excludes_zero
    assert transfer_ratio(expert, foundation, 0) is None


def measured(labels: Floats, **more: list[Floats]) -> Measured:
    truth = np.where(labels > 0, 0.7, 0.2)
    arms = {
        kinds.ORACLE: [np.log(truth / (1 - truth))],
        kinds.BASE_RATE: [np.full(labels.shape, np.log(0.3 / 0.7))],
        kinds.HEADS: [guesses(labels, 1, 0)],
        kinds.WITH: [guesses(labels, 1, seed) for seed in range(2)],
        kinds.WITHOUT: [guesses(labels, 0.5, seed) for seed in range(2)],
    }
    tasks = ("click", "like")[: labels.shape[1]]
    return Measured.of(tasks, rows_of(labels), arms | more, 100)


def test_figures_of_a_surface_are_of_each_task_and_of_all_where_there_are_several() -> None:
    assert list(measured(coins(100)).columns) == ["click"]
    assert list(measured(coins(100, 2)).columns) == ["click", "like", ALL_TASKS]
    assert list(measured(np.concatenate([coins(100), np.zeros((100, 1))], 1)).columns) == ["click"]
    with pytest.raises(RecastError, match="differs") as caught:
        measured(np.zeros((20, 2)))
    assert caught.value.termination.reason == "NothingToMeasure"


def test_what_is_reached_counts_from_the_base_rate_to_the_oracle() -> None:
    found = measured(coins(200))
    assert found.arm(kinds.BASE_RATE, None, []).reachable == {"click": pytest.approx(0)}
    assert found.arm(kinds.ORACLE, None, []).reachable == {"click": pytest.approx(1)}
    ours = found.arm(kinds.WITH, "0.003", [7, 7])
    assert 0 < ours.reachable["click"] < 1
    assert (ours.learning_rate, ours.steps) == ("0.003", [7, 7])
    assert ours.calibration["click"] == pytest.approx(
        np.mean([1 / (1 + np.exp(-logits)) for logits in found.logits[kinds.WITH]]) / coins(200).mean()
    )


def test_gaps_are_of_the_arms_that_there_are_and_a_ratio_takes_two_foundations() -> None:
    labels = coins(100)
    alone = measured(labels)
    assert [(gap.arm, gap.against) for gap in alone.gaps()] == [
        (kinds.WITH, kinds.WITHOUT), (kinds.WITH, kinds.HEADS), (kinds.HEADS, kinds.WITHOUT),
    ]  # fmt: skip
    gap = alone.gaps()[0]
    assert gap.difference["click"].value < 0
    assert gap.relative["click"].value < 0
    assert alone.transfer() is None
    both = measured(
        labels, **{kinds.WITH_OTHER: [guesses(labels, 0, 5)] * 2, kinds.OTHER_HEADS: [guesses(labels, -1, 6)]}
    )
    assert [(gap.arm, gap.against) for gap in both.gaps()][-2:] == [
        (kinds.WITH, kinds.WITH_OTHER), (kinds.HEADS, kinds.OTHER_HEADS),
    ]  # fmt: skip
    ratio = (both.transfer() or {})["click"]
    assert ratio is not None
    assert ratio.value > 0
