"""How often the gates are wrong, by simulation: pairs of versions with known noise from users and from training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recast_api.resources import Aggregate, Gates, Measurement, ModelReference, ModelVersionSpec
from recast_api.resources.version import Baseline
from recast_operator.planning.versions.comparison import Increase, quantile, shared_doubt
from recast_operator.planning.versions.gates import judge

PAIRS = 3000
DIGEST = f"sha256:{'0' * 64}"


def figures(increase: float, error: float) -> dict[str, str]:
    half = 1.6449 * error
    names = ("ne", "baseline_ne", "ne_increase", "ne_increase_low", "ne_increase_high")
    values = (0.8 * (1 + increase), 0.8, increase, increase - half, increase + half)
    return {name: f"{value:.6f}" for name, value in zip(names, values, strict=True)}


def reasons(
    *, tasks: int, users: float, training: float, truth: float, gates: Gates, task_truth: float = 0.0
) -> list[str]:
    """The verdicts on simulated pairs: relative standard deviations of an increase by users, of an NE by training.

    A task's noise of either kind is one and a half times as large, half of it in common with the other tasks.
    """
    random = np.random.default_rng(0)
    found = []
    for _ in range(PAIRS):
        common, single = random.normal(size=2), random.normal(size=(tasks, 2))
        noises = [common, *(math.sqrt(0.5) * 1.5 * (common + own) for own in single)]
        drift = [truth, truth + task_truth, *[truth] * (tasks - 1)]
        seen = [
            true + math.sqrt(2) * training * noise[0] + users * noise[1]
            for true, noise in zip(drift, noises, strict=True)
        ]
        version = ModelVersionSpec(
            model=ModelReference(kind="FoundationModel", name="home-fm", uid="u"),
            number=2, lineage=2, digest=DIGEST, path="x", watermark="2026-01-01T00:00:00Z",
            baseline=Baseline(version=1, digest=DIGEST),
            aggregate=Aggregate(rows=tasks * 5000, positives=tasks * 1000, **figures(seen[0], users)),
            measurements=[
                Measurement(
                    surface=f"s{task}", task="click", rows=5000, positives=1000, calibration="1",
                    **figures(seen[task + 1], 1.5 * users),
                )
                for task in range(tasks)
            ],
        )  # fmt: skip
        found.append(judge(version, gates).reason)
    return found


def share_rejected(found: list[str]) -> float:
    return sum(reason in ("NEIncreased", "TaskNEIncreased") for reason in found) / len(found)


@pytest.mark.parametrize(
    ("tasks", "users", "training"),
    [(1, 0.002, 0.005), (2, 0.005, 0.02), (6, 0.008, 0.02), (6, 0.02, 0.005), (12, 0.001, 0.02)],
)
def test_a_version_like_its_baseline_is_rejected_in_at_most_one_case_of_twenty(
    tasks: int, users: float, training: float
) -> None:
    gates = Gates(training_noise=f"{training}")
    found = reasons(tasks=tasks, users=users, training=training, truth=0.0, gates=gates)
    assert share_rejected(found) <= 0.05


def test_the_limit_is_not_noise_a_version_at_it_is_rejected_in_about_one_case_of_twenty() -> None:
    found = reasons(tasks=1, users=0.005, training=0.025, truth=0.005, gates=Gates())
    assert 0.03 < share_rejected(found) < 0.065


def test_noise_that_is_not_stated_rejects_by_luck() -> None:
    found = reasons(tasks=6, users=0.005, training=0.02, truth=0.0, gates=Gates(training_noise="0"))
    assert share_rejected(found) > 0.25


@pytest.mark.parametrize(("truth", "share"), [(0.1, 0.8), (0.15, 0.98)])
def test_a_version_that_is_truly_worse_is_mostly_rejected(truth: float, share: float) -> None:
    found = reasons(tasks=2, users=0.005, training=0.025, truth=truth, gates=Gates())
    assert share_rejected(found) >= share


def test_a_task_that_is_truly_worse_is_rejected_although_the_sum_is_not() -> None:
    found = reasons(
        tasks=6, users=0.005, training=0.005, truth=0.0, task_truth=0.1, gates=Gates(training_noise="0.005")
    )
    assert found.count("TaskNEIncreased") / len(found) > 0.95


def test_quantiles_are_those_of_the_tables_and_guards_share_one_in_a_hundred() -> None:
    assert [quantile(doubt) for doubt in (0.5, 0.05, 0.01)] == pytest.approx([0, 1.6449, 2.3263], abs=1e-4)
    assert [shared_doubt(guards) for guards in (0, 1, 5)] == [0.01, 0.01, 0.002]


@pytest.mark.parametrize(
    ("low", "high", "mean", "expected"),
    [
        (-0.01, 0.03, 0.012, (0.012, 0.04)),
        (-0.01, 0.03, None, (0.01, 0.04)),
        (-0.01, None, 0.01, (0.01, 0.04)),
        (0.02, None, None, (0.02, 0.0)),
        (0.02, None, 0.01, (0.01, 0.0)),
    ],
)
def test_a_standard_error_is_read_off_the_bounds(
    low: float, high: float | None, mean: float | None, expected: tuple[float, float]
) -> None:
    found = Increase.between(low, high, mean)
    assert (found.mean, found.error * 2 * 1.6448536) == pytest.approx(expected)


def test_bounds_with_both_noises_lie_as_far_to_either_side() -> None:
    found = Increase(0.01, 0.03).with_training_noise(0.04 / math.sqrt(2))
    assert found.error == pytest.approx(0.05)
    assert (found.lower(), found.upper()) == pytest.approx((0.01 - 0.0822427, 0.01 + 0.0822427))
    assert found.half_width(0.01) == pytest.approx(0.05 * 2.3263479)
