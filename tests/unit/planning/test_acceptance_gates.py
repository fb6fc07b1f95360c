from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
        ([measured(0.7, 0.71, -0.02), measured(0.9, 0.7, 0.2, rows=0)], "GatesPassed"),
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


HOSTILE = ["1e9999", "-1e9999", "1e9999999999999999999", "9e99999999999999999", "NaN", "Infinity", "-Infinity", "x", ""]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["ne", "calibration", "baseline_ne", "ne_increase", "ne_increase_low"])
def test_a_number_beyond_measure_is_a_verdict_in_words_and_never_an_exception(field: str, text: str) -> None:
    landed = version(measured(0.7), measured(0.7, 0.71, -0.02).model_copy(update={field: text}))
    verdict = judge(landed, Gates())
    assert (verdict.accepted, verdict.reason) == (False, "NotFinite")
    assert text in verdict.message
    assert "lower training.learningRate" in verdict.message
    assert quality(landed.measurements).ne_text == "0.7000"


@pytest.mark.parametrize("text", ["1e-9999", "0e9999", "1e-99999999999999999", "0.0000000000001"])
def test_a_number_too_small_to_tell_from_zero_is_zero(text: str) -> None:
    landed = version(measured(0.7, ne_increase_low=text, ne_increase=text, baseline_ne="0.7"))
    assert judge(landed, Gates()).accepted
    assert quality([measured(0.7).model_copy(update={"ne": text})]).ne_text == "0.0000"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ne": "-0.1"}, "ne -0.1"),
        ({"calibration": "-1"}, "calibration -1"),
        ({"baseline_ne": "-0.7"}, "baselineNe -0.7"),
        ({"rows": -5000}, "2000 positives of -5000 rows"),
        ({"positives": -1}, "-1 positives of 5000 rows"),
    ],
)
def test_what_no_measurement_gives_is_not_measured(changes: dict[str, Any], words: str) -> None:
    landed = version(measured(0.6), measured(0.7, 0.71, -0.02).model_copy(update=changes))
    verdict = judge(landed, Gates())
    assert (verdict.accepted, verdict.reason) == (False, "NotMeasured")
    assert f"reels/click: {words}, which no measurement gives" in verdict.message


def test_the_largest_number_that_counts_is_a_billion() -> None:
    assert judge(version(measured(0.7, calibration="1000000000", positives=1)), Gates()).accepted
    assert judge(version(measured(0.7, calibration="1000000001", positives=1)), Gates()).reason == "NotFinite"


def test_what_cannot_be_read_is_left_out_of_the_means() -> None:
    entries = [measured(0.6, rows=1000), measured(0.9, 0.8, rows=3000).model_copy(update={"ne": "1e400"})]
    mean = quality(entries)
    assert (mean.rows, mean.ne_text, mean.change_text) == (1000, "0.6000", "")
    assert quality([*entries, measured(0.9).model_copy(update={"rows": -500})]) == mean
    half = quality([measured(0.6, 0.5).model_copy(update={"baseline_ne": "1e400"}), measured(0.8, 0.7)])
    assert (half.rows, half.ne_text, half.change_text) == (10000, "0.7000", "+0.1000")


@given(
    numbers=st.lists(st.sampled_from([*HOSTILE, "0", "0.7", "-1", "1e5", "1e-5"]), min_size=6, max_size=6),
    rows=st.integers(-(2**63), 2**63),
    positives=st.integers(-(2**63), 2**63),
)
def test_no_measurement_whatever_makes_the_judge_raise(numbers: list[str], rows: int, positives: int) -> None:
    fields = ("ne", "calibration", "baseline_ne", "ne_increase", "ne_increase_low", "ne_increase_high")
    entry = measured(0.7).model_copy(update=dict(zip(fields, numbers, strict=True)) | {"rows": rows})
    landed = version(entry.model_copy(update={"positives": positives}), measured(0.6))
    verdict = judge(landed, Gates())
    assert len(verdict.message) < 400
    assert len(quality(landed.measurements).ne_text) < 24
    if any(text in HOSTILE for text in numbers):
        assert not verdict.accepted


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
