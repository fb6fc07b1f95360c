from __future__ import annotations

from typing import Any

import pytest
from planning_simulator import digest_of, measured

from recast_api.resources import Gates, Measurement, ModelReference, ModelVersionSpec
from recast_api.resources.version import Baseline
from recast_operator.planning.versions.gates import judge, quality


def version(*measurements: Measurement, finite: bool = True, baseline: bool = True) -> ModelVersionSpec:
    return ModelVersionSpec(
        model=ModelReference(kind="FoundationModel", name="home-fm", uid="u"),
        number=2,
        lineage=2,
        digest=digest_of(2),
        path="fm/home-fm/u/v2",
        watermark="2026-01-01T00:00:00Z",
        baseline=Baseline(version=1, digest=digest_of(1)) if baseline else None,
        finite=finite,
        measurements=list(measurements),
    )


@pytest.mark.parametrize(
    ("measurements", "reason"),
    [
        ([measured(0.7)], "GatesPassed"),
        ([measured(0.7, 0.71, -0.02)], "GatesPassed"),
        ([measured(0.7, 0.69, 0.004)], "GatesPassed"),
        ([measured(0.7, 0.69, 0.005)], "GatesPassed"),
        ([measured(0.7, 0.69, 0.0051)], "NEIncreased"),
        ([measured(0.7, 0.71, -0.02), measured(0.9, 0.7, 0.2, surface="feed")], "NEIncreased"),
        ([measured(1.2, 1.3, -0.02)], "GatesPassed"),
        ([measured(1.0)], "WorseThanBaseRate"),
        ([measured(1.2, rows=100), measured(0.7, rows=9000)], "GatesPassed"),
        ([measured(1.2, rows=9000), measured(0.7, rows=100)], "WorseThanBaseRate"),
        ([measured(0.7, calibration="1.3")], "Miscalibrated"),
        ([measured(0.7, calibration="0.7")], "Miscalibrated"),
        ([measured(0.7, calibration="1.25")], "GatesPassed"),
        ([measured(0.7, calibration="9.0", positives=1599)], "GatesPassed"),
        ([measured(0.7, calibration="9.0", positives=1600)], "Miscalibrated"),
        ([], "NotMeasured"),
        ([measured(0.7, rows=0)], "NotMeasured"),
    ],
)
def test_a_version_is_judged_by_its_measurements(measurements: list[Measurement], reason: str) -> None:
    verdict = judge(version(*measurements), Gates())
    assert verdict.reason == reason
    assert verdict.accepted is (reason == "GatesPassed")


def test_weights_that_are_not_finite_are_rejected_however_good_they_measured() -> None:
    assert judge(version(measured(0.5), finite=False), Gates()).reason == "NotFinite"


def test_a_wider_gate_accepts_what_a_narrow_one_rejects() -> None:
    landed = version(measured(0.8, 0.7, 0.14))
    assert not judge(landed, Gates()).accepted
    assert judge(landed, Gates.model_validate({"maxNEIncrease": "0.2"})).accepted


def test_a_rejection_carries_the_numbers_and_who_goes_on_serving() -> None:
    verdict = judge(version(measured(0.74, 0.70, 0.04)), Gates())
    for part in ("reels/click", "0.7400", "+5.71 %", "v1", "5000 rows", "+4.00 %", "+0.50 %", "goes on serving"):
        assert part in verdict.message


def test_an_acceptance_says_by_how_much_it_is_better() -> None:
    assert (
        judge(version(measured(0.69, 0.70, -0.02)), Gates()).message
        == "NE 0.6900 (-0.0100 against v1) over 5000 held-out rows"
    )


def test_means_are_weighted_by_rows_and_changes_only_over_pairs() -> None:
    entries: list[Any] = [measured(0.6, rows=1000), measured(0.8, 0.7, 0.0, rows=3000)]
    mean = quality(entries)
    assert (mean.rows, mean.ne_text, mean.change_text) == (4000, "0.7500", "+0.1000")
