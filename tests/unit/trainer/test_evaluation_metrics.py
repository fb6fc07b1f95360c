"""Normalised entropy, calibration and the paired bounds, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recast_trainer.evaluation.measure import ALL, ScoredRows, decimal, measurements
from recast_trainer.evaluation.metrics import RunningNE, paired_increase, quality


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


def scored(seed: int = 5) -> ScoredRows:
    users, truth, labels = stream(seed, rows=900)
    surfaces = np.arange(900) % 3
    labels2 = np.stack([labels, np.where(surfaces == 2, 0.0, 1 - labels)], axis=1)
    mask = np.ones((900, 2), dtype=bool)
    logits = np.stack([truth, -truth], axis=1)
    return ScoredRows(np.arange(900), users, surfaces, np.arange(900) + 1, labels2, mask, logits)


def test_measurements_cover_each_surface_and_all_and_leave_out_a_task_without_positives() -> None:
    rows = scored()
    found = measurements(rows, ["feed", "reels", "push"], ["click", "like"], {"click": rows.logits[:, 0]})
    keys = [(item.surface, item.task) for item in found]
    assert keys == [
        ("feed", "click"), ("feed", "like"), ("reels", "click"), ("reels", "like"),
        ("push", "click"), (ALL, "click"), (ALL, "like"),
    ]  # fmt: skip
    assert sum(item.rows for item in found if item.task == "click" and item.surface != ALL) == 900
    by_key = dict(zip(keys, found, strict=True))
    assert by_key["feed", "click"].ne_increase == "0.000000"
    assert by_key["feed", "like"].ne_increase is None  # the baseline lacks this task


def test_logits_that_are_not_finite_give_no_measurement_rather_than_a_wrong_one() -> None:
    rows = scored()
    rows.logits[3, 0] = np.nan
    assert {item.task for item in measurements(rows, ["feed"], ["click", "like"])} == {"like"}


@given(st.floats(-1e20, 1e20))
def test_every_measured_number_fits_the_apis_decimal_string(value: float) -> None:
    text = decimal(value)
    assert len(text) <= 24
    assert float(text) == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert "+" not in text


def test_entropy_counted_in_parts_equals_entropy_of_the_whole() -> None:
    rows = scored()
    whole, parts = RunningNE(2), RunningNE(2)
    whole.add(rows.logits, rows.labels, rows.mask)
    for start in range(0, 900, 70):
        piece = slice(start, start + 70)
        parts.add(rows.logits[piece], rows.labels[piece], rows.mask[piece])
    assert parts.mean() == pytest.approx(whole.mean())
    assert math.isnan(RunningNE(2).mean())
