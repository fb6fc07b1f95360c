"""Normalised entropy, calibration and the paired bounds, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recast_api.resources.version import Aggregate, Measurement
from recast_trainer.evaluation.measure import ScoredRows, aggregate, decimal, headline, measurements, warnings
from recast_trainer.evaluation.metrics import Group, RunningNE, paired_increase, quality, summed_increase, summed_ne


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_normalised_entropy_and_calibration_agree_with_a_computation_by_hand() -> None:
    predictions, labels = [0.8, 0.4, 0.3, 0.1], [1.0, 1.0, 0.0, 0.0]
    found = quality(np.array([logit(p) for p in predictions]), np.array(labels))
    loss = -(math.log(0.8) + math.log(0.4) + math.log(0.7) + math.log(0.9)) / 4
    assert found is not None
    assert found.ne == pytest.approx(loss / math.log(2))
    assert found.calibration == pytest.approx((0.8 + 0.4 + 0.3 + 0.1) / 2)
    assert (found.rows, found.positives) == (4, 2)


def test_predicting_the_base_rate_has_normalised_entropy_one_and_calibration_one() -> None:
    labels = np.array([1.0] * 3 + [0.0] * 17)
    found = quality(np.full(20, logit(3 / 20)), labels)
    assert found is not None
    assert found.ne == pytest.approx(1.0)
    assert found.calibration == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [[], [0.0, 0.0], [1.0, 1.0, 1.0]])
def test_rows_whose_labels_are_all_alike_have_no_normalised_entropy(labels: list[float]) -> None:
    assert quality(np.zeros(len(labels)), np.array(labels)) is None


@given(hnp.arrays(np.float64, 30, elements=st.floats(-60, 60)), st.integers(1, 29))
def test_no_prediction_of_finite_logits_gives_a_number_that_is_not_finite(logits: np.ndarray, positives: int) -> None:
    labels = (np.arange(30) < positives).astype(np.float64)
    found = quality(logits, labels)
    assert found is not None
    assert math.isfinite(found.ne)
    assert found.calibration >= 0


def stream(seed: int, users: int = 200, rows: int = 8000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    owner = random.integers(0, users, rows)
    truth = random.normal(0, 1.2, rows) - 1
    labels = (random.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.float64)
    return owner, truth, labels


def test_a_version_compared_with_itself_shows_no_increase_at_all() -> None:
    users, truth, labels = stream(0)
    found = paired_increase(users, truth, truth, labels)
    assert found is not None
    assert (found.low, found.mean, found.high) == (0.0, 0.0, 0.0)


def test_noise_added_to_a_model_is_an_increase_whose_lower_bound_is_above_zero() -> None:
    users, truth, labels = stream(1)
    noisy = truth + np.random.default_rng(2).normal(0, 0.6, len(truth))
    found = paired_increase(users, noisy, truth, labels)
    assert found is not None
    assert 0 < found.low < found.mean < found.high
    swapped = paired_increase(users, truth, noisy, labels)
    assert swapped is not None
    assert swapped.high < 0


def test_the_one_sided_bounds_miss_the_truth_about_one_time_in_twenty() -> None:
    misses = 0
    for seed in range(60):
        users, truth, labels = stream(seed + 10, users=80, rows=800)
        random = np.random.default_rng(seed)
        ours, theirs = (truth + random.normal(0, 0.5, len(truth)) for _ in range(2))
        found = paired_increase(users, ours, theirs, labels, resamples=200)
        assert found is not None
        misses += found.low > 0  # the two are equally good, so any bound above zero is a miss
    assert misses <= 9  # binomial(60, 0.05) exceeds 9 with probability 0.1 %


def two_kinds_of_users(users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Half of the users are better off by a little, half worse: the ratio depends on how many of a kind are drawn."""
    owner = np.repeat(np.arange(users), 2)
    labels = np.tile([1.0, 0.0], users)
    ours = np.where(owner % 2 == 0, 0.9, 1.3) * (2 * labels - 1)
    return owner, ours, 1.1 * (2 * labels - 1), labels


def test_the_bounds_are_the_5th_and_95th_percentile_of_users_drawn_with_replacement() -> None:
    users = 400
    owner, ours, theirs, labels = two_kinds_of_users(users)
    found = paired_increase(owner, ours, theirs, labels)
    assert found is not None
    loss = {kind: math.log1p(math.exp(-logit)) for kind, logit in (("worse", 0.9), ("better", 1.3), ("base", 1.1))}

    def ratio(worse: int) -> float:
        return (worse * loss["worse"] + (users - worse) * loss["better"]) / (users * loss["base"]) - 1

    # How many of the worse kind are drawn is binomial, so the chance of a ratio at most this is a sum of binomials.
    def chance(bound: float) -> float:
        count = sum(math.comb(users, k) for k in range(users + 1) if ratio(k) <= bound + 1e-12)
        return count / 2**users

    assert found.mean == pytest.approx(ratio(users // 2), rel=1e-9)
    assert 0.03 < chance(found.low) < 0.08  # 1,000 draws find a twentieth to within two hundredths
    assert 0.93 < chance(found.high) < 0.97
    assert found.baseline_ne == pytest.approx(loss["base"] / math.log(2), rel=1e-9)


def test_with_two_users_the_bounds_are_those_of_the_four_ways_to_draw_them() -> None:
    owner, ours, theirs, labels = two_kinds_of_users(2)
    found = paired_increase(owner, ours, theirs, labels)
    assert found is not None
    loss = [math.log1p(math.exp(-logit)) / math.log1p(math.exp(-1.1)) - 1 for logit in (1.3, 0.9)]
    assert (found.low, found.high) == (pytest.approx(loss[0]), pytest.approx(loss[1]))


def test_the_same_seed_gives_the_same_bounds_and_another_seed_others() -> None:
    users, truth, labels = stream(4, users=50, rows=500)
    noisy = truth + np.random.default_rng(2).normal(0, 0.3, len(truth))
    found = [paired_increase(users, noisy, truth, labels, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_rows_of_one_user_are_resampled_together_so_the_bounds_are_as_wide_as_users_differ() -> None:
    users = np.repeat(np.arange(20), 100)
    truth = np.repeat(np.random.default_rng(3).normal(0, 1, 20), 100)
    labels = np.tile((np.arange(100) < 40).astype(np.float64), 20)
    clustered = paired_increase(users, truth, np.zeros(2000), labels)
    alone = paired_increase(np.arange(2000), truth, np.zeros(2000), labels)
    assert clustered is not None
    assert alone is not None
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)


def test_a_single_user_gives_no_bounds() -> None:
    assert paired_increase(np.zeros(4, np.int64), np.zeros(4), np.zeros(4), np.array([0.0, 1, 0, 1])) is None


def unknown(like: np.ndarray) -> np.ndarray:
    return np.full(like.shape, np.nan, np.float32)


def scored(seed: int = 5) -> ScoredRows:
    users, truth, labels = stream(seed, rows=900)
    surfaces = np.arange(900) % 3
    labels2 = np.stack([labels, np.where(surfaces == 2, 0.0, 1 - labels)], axis=1)
    mask = np.ones((900, 2), dtype=bool)
    logits = np.stack([truth, -truth], axis=1)
    return ScoredRows(np.arange(900), users, surfaces, np.arange(900) + 1, labels2, mask, logits, unknown(logits))


def test_measurements_cover_each_surface_and_leave_out_a_task_without_positives() -> None:
    rows = scored()
    found = measurements(rows, ["feed", "reels", "push"], ["click", "like"], {"click": rows.logits[:, 0]})
    keys = [(item.surface, item.task) for item in found]
    assert keys == [
        ("feed", "click"), ("feed", "like"), ("reels", "click"), ("reels", "like"), ("push", "click"),
    ]  # fmt: skip
    assert sum(item.rows for item in found if item.task == "click") == 900
    by_key = dict(zip(keys, found, strict=True))
    assert by_key["feed", "click"].ne_increase == "0.000000"
    assert by_key["feed", "like"].ne_increase is None  # the baseline lacks this task


def test_a_measurement_is_of_its_own_surfaces_rows_whose_label_is_known() -> None:
    logits = np.array([[logit(0.8)], [logit(0.4)], [logit(0.3)], [5.0], [-5.0]])
    labels = np.array([[1.0], [1.0], [0.0], [1.0], [0.0]])
    mask = np.array([[True], [True], [True], [False], [True]])
    base = np.zeros(5)
    rows = ScoredRows(
        np.arange(5),
        np.array([1, 2, 3, 4, 5]),
        np.array([0, 0, 0, 0, 1]),
        np.ones(5),
        labels,
        mask,
        logits,
        unknown(logits),
    )
    (feed,) = measurements(rows, ["feed"], ["click"], {"click": base})
    loss = -(math.log(0.8) + math.log(0.4) + math.log(0.7)) / 3
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert (feed.surface, feed.task, feed.rows, feed.positives) == ("feed", "click", 3, 2)
    assert feed.ne == f"{loss / entropy:.6f}"
    assert feed.calibration == f"{(0.8 + 0.4 + 0.3) / 2:.6f}"
    assert feed.baseline_ne == f"{math.log(2) / entropy:.6f}"
    assert feed.ne_increase == f"{loss / math.log(2) - 1:.6f}"
    assert feed.ne_increase_low is not None
    assert feed.ne_increase_high is not None
    assert float(feed.ne_increase_low) < float(feed.ne_increase) < float(feed.ne_increase_high)
    (both,) = measurements(rows, ["feed", "reels"], ["click"])  # the second surface has one class alone
    assert (both.surface, both.rows, both.ne_increase) == ("feed", 3, None)


def two_groups() -> ScoredRows:
    """Eight rows of four users: on two surfaces, a task on both and another on the first."""
    nan = [0.0, False, 0.0]
    rows = [
        # user, surface, (label, known, logit) of click and of like
        (1, 0, [1.0, True, logit(0.8)], [0.0, True, logit(0.1)]),
        (2, 0, [0.0, True, logit(0.4)], [1.0, True, logit(0.5)]),
        (3, 0, [0.0, True, logit(0.3)], [0.0, True, logit(0.2)]),
        (4, 0, [1.0, False, 9.0], [0.0, True, logit(0.3)]),
        (1, 1, [1.0, True, logit(0.6)], nan),
        (2, 1, [0.0, True, logit(0.2)], nan),
        (3, 1, [1.0, True, logit(0.7)], nan),
        (4, 1, [1.0, True, logit(0.9)], nan),
    ]
    parts = np.array([[row[2], row[3]] for row in rows], dtype=np.float64)  # (R, T, 3)
    users, surfaces = (np.array([row[column] for row in rows]) for column in (0, 1))
    known = parts[:, :, 1].astype(bool)
    return ScoredRows(np.arange(8), users, surfaces, np.ones(8), parts[:, :, 0], known, parts[:, :, 2], unknown(known))


def nats(*right: float) -> float:
    """Log loss of rows whose label had these probabilities."""
    return -sum(math.log(p) for p in right)


def entropy(positives: int, rows: int) -> float:
    return nats(*[positives / rows] * positives, *[1 - positives / rows] * (rows - positives))


CLICKS = (nats(0.8, 0.6, 0.7), nats(0.6, 0.8, 0.7, 0.9))
LIKES = nats(0.9, 0.5, 0.8, 0.7)


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_the_aggregate_is_the_ratio_of_summed_losses_each_times_its_tasks_weight(weight: float) -> None:
    found = aggregate(two_groups(), ["feed", "reels"], ["click", "like"], weights=[1.0, weight])
    assert found is not None
    loss = sum(CLICKS) + weight * LIKES
    base = entropy(1, 3) + entropy(3, 4) + weight * entropy(1, 4)
    assert found.ne == f"{loss / base:.6f}"
    assert (found.rows, found.positives, found.baseline_ne, found.ne_increase) == (11, 5, None, None)
    if weight == 1.0:
        assert aggregate(two_groups(), ["feed", "reels"], ["click", "like"]) == found


def test_the_aggregates_increase_is_of_the_summed_losses_and_its_bounds_hold_it() -> None:
    rows = two_groups()
    base = {"click": np.zeros(8), "like": np.zeros(8)}
    found = aggregate(rows, ["feed", "reels"], ["click", "like"], base, [1.0, 0.5])
    assert found is not None
    loss = sum(CLICKS) + 0.5 * LIKES
    theirs = (7 + 0.5 * 4) * math.log(2)
    assert found.ne_increase == f"{loss / theirs - 1:.6f}"
    assert found.baseline_ne == f"{theirs / (entropy(1, 3) + entropy(3, 4) + 0.5 * entropy(1, 4)):.6f}"
    assert float(found.ne) / float(found.baseline_ne) - 1 == pytest.approx(float(found.ne_increase), abs=1e-5)
    assert found.ne_increase_low is not None
    assert found.ne_increase_high is not None
    assert float(found.ne_increase_low) < float(found.ne_increase) < float(found.ne_increase_high)


def test_an_aggregate_is_compared_on_the_tasks_that_the_baseline_has_and_is_of_those_alone() -> None:
    rows, names, tasks = two_groups(), ["feed", "reels"], ["click", "like"]
    found = aggregate(rows, names, tasks, {"click": np.zeros(8)})
    alone = aggregate(rows, names, tasks[:1], {"click": np.zeros(8)})
    assert found == alone
    assert found is not None
    assert (found.rows, found.baseline_ne is None) == (7, False)
    other = aggregate(rows, names, tasks, {"share": np.zeros(8)})
    assert other == aggregate(rows, names, tasks)


def test_nothing_to_measure_has_no_aggregate() -> None:
    assert aggregate(two_groups(), ["feed", "reels"], ["click", "like"], weights=[0.0, 0.0]) is None
    assert aggregate(two_groups().select(np.zeros(8, bool)), ["feed"], ["click", "like"]) is None
    assert summed_ne([]) is None
    assert summed_increase([]) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_baseline_that_is_not_finite_leaves_the_aggregate_without_comparison(bad: float) -> None:
    rows = two_groups()
    found = aggregate(rows, ["feed", "reels"], ["click", "like"], {"click": np.full(8, bad), "like": np.zeros(8)})
    assert found == aggregate(rows, ["feed", "reels"], ["click", "like"])


def test_a_users_rows_of_all_tasks_are_drawn_together_so_that_errors_that_cancel_do_not_count() -> None:
    users = np.arange(300)
    random = np.random.default_rng(0)
    labels = np.tile([1.0, 0.0], 150)
    swing = random.normal(0, 0.5, 300)
    # What a user's first task loses the second gains, and the other way round.
    first = Group(users, labels, (1 + swing) * (2 * labels - 1), 1.0 * (2 * labels - 1))
    second = Group(users, labels, (1 - swing) * (2 * labels - 1), 1.0 * (2 * labels - 1))
    same = Group(users, labels, first.logits, first.baseline_logits)
    one, cancelled, added = (
        found for groups in ([first], [first, second], [first, same]) if (found := summed_increase(groups)) is not None
    )
    assert cancelled.high - cancelled.low < 0.5 * (one.high - one.low)
    assert (added.low, added.high) == pytest.approx((one.low, one.high))


def test_an_aggregate_of_one_task_is_that_tasks_measurement() -> None:
    rows = scored()
    base = {"click": rows.logits[:, 0] + 0.2}
    (one,) = measurements(rows, ["feed"], ["click"], base)
    found = aggregate(rows, ["feed"], ["click"], base, [0.3])
    assert found is not None
    assert found.wire() == {key: value for key, value in one.wire().items() if key in found.wire()}


def test_the_headline_weighs_tasks_by_their_rows() -> None:
    made = [
        Measurement(surface="feed", task="click", rows=30, positives=3, ne="0.8", calibration="1"),
        Measurement(surface="feed", task="like", rows=10, positives=3, ne="0.4", calibration="1"),
        Measurement(surface="reels", task="like", rows=10, positives=3, ne="0.5", calibration="1"),
    ]
    together = Aggregate(rows=50, positives=9, ne="0.65")
    assert headline(made) == "feed 0.7000  reels 0.5000"
    assert headline(made, together) == "feed 0.7000  reels 0.5000  all 0.6500"
    assert headline(made[:1], together) == "feed 0.8000"


def test_what_is_no_better_than_the_base_rate_or_not_measured_at_all_is_said() -> None:
    made = [
        Measurement(surface="feed", task=task, rows=300, positives=17, ne=ne, calibration="1")
        for task, ne in (("click", "0.999999"), ("like", "1.0"), ("buy", "1.0361"))
    ]
    assert warnings(made) == [
        "WARNING: feed like: NE 1.0000 is no better than the base rate, on 17 positives of 300 rows",
        "WARNING: feed buy: NE 1.0361 is no better than the base rate, on 17 positives of 300 rows",
    ]
    assert ["nothing could be measured" in line for line in warnings([])] == [True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_give_no_measurement_rather_than_a_wrong_one(bad: float) -> None:
    rows = scored()
    rows.logits[3, 0] = bad
    rows.labels[3, 0] = 1.0
    assert {item.task for item in measurements(rows, ["feed"], ["click", "like"])} == {"like"}


@given(st.floats(-1e20, 1e20))
def test_every_measured_number_fits_the_apis_decimal_string(value: float) -> None:
    text = decimal(value)
    assert len(text) <= 24
    assert float(text) == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert "+" not in text


def test_entropy_so_far_is_the_mean_over_tasks_weighted_by_their_rows() -> None:
    counted = RunningNE(4)
    logits = np.zeros((4, 4))
    logits[:, 0] = [logit(0.8), logit(0.4), logit(0.3), 9.0]
    labels = np.array([[1.0, 0, 1, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 1, 1, 0]])
    mask = np.array([[True] * 4, [True] * 4, [True, False, True, True], [False, False, True, True]])
    counted.add(logits, labels, mask)
    first = -(math.log(0.8) + math.log(0.4) + math.log(0.7)) / 3
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert counted.mean() == pytest.approx(
        (3 * first / entropy + 2 * 1.0) / 5
    )  # the last two tasks have one class alone
    assert counted.sums[:, :2].tolist() == [[3, 2], [2, 1], [4, 4], [4, 0]]


def test_entropy_counted_in_parts_equals_entropy_of_the_whole() -> None:
    rows = scored()
    whole, parts = RunningNE(2), RunningNE(2)
    whole.add(rows.logits, rows.labels, rows.mask)
    for start in range(0, 900, 70):
        piece = slice(start, start + 70)
        parts.add(rows.logits[piece], rows.labels[piece], rows.mask[piece])
    assert parts.mean() == pytest.approx(whole.mean())
    assert math.isnan(RunningNE(2).mean())
