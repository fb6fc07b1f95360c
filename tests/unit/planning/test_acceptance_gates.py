from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_simulator import digest_of, measured

from recast_api.resources import Aggregate, FoundationGates, Gates, Measurement, ModelReference, ModelVersionSpec
from recast_api.resources.version import Baseline, Tail
from recast_operator.planning.versions.gates import judge
from recast_operator.planning.versions.measured import quality

EXACT = Gates.model_validate({"trainingNoise": "0"})
"""Gates for trainings that always come out alike: users' noise is all there is."""


def version(
    *measurements: Measurement, finite: bool = True, baseline: bool = True, aggregate: Aggregate | None = None
) -> ModelVersionSpec:
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
        aggregate=aggregate,
    )


def compared(increase: float, low: float, high: float | None = None, **changes: Any) -> Measurement:
    """A task whose NE grew by ``increase`` over 0.7, with these bounds."""
    given = {"ne_increase_high": None if high is None else f"{high}"}
    return measured(0.7 * (1 + increase), 0.7, low, ne_increase=f"{increase}", **(given | changes))


def whole(increase: float | None = None, half: float = 0.001, **changes: Any) -> Aggregate:
    """An aggregate whose NE grew by ``increase`` over 0.7, give or take ``half``."""
    fields: dict[str, Any] = {"rows": 20000, "positives": 4000, "ne": f"{0.7 * (1 + (increase or 0)):.6f}"}
    if increase is not None:
        bounds = {"ne_increase_low": f"{increase - half:.6f}", "ne_increase_high": f"{increase + half:.6f}"}
        fields |= {"baseline_ne": "0.7", "ne_increase": f"{increase:.6f}"} | bounds
    return Aggregate(**(fields | changes))


@pytest.mark.parametrize(
    ("measurements", "reason"),
    [
        ([measured(0.7)], "GatesPassed"),
        ([measured(0.6, 0.7, -0.15)], "GatesPassed"),
        ([compared(0.006, 0.0049)], "GatesPassed"),
        ([compared(0.006, 0.0051)], "NEIncreased"),
        ([compared(0.1, -0.2), compared(0.1, 0.09, surface="feed", positives=50)], "Inconclusive"),
        ([compared(-0.3, -0.31), compared(0.3, 0.2, surface="feed")], "TaskNEIncreased"),
        ([compared(-0.1, -0.11), compared(0.1, 0.09, surface="feed")], "TaskNEIncreased"),
        ([compared(-0.1, -0.11), compared(0.3, 0.2, surface="feed", positives=99, rows=1000)], "GatesPassed"),
        ([compared(-0.1, -0.11), compared(0.3, 0.2, surface="all")], "GatesPassed"),
        ([measured(1.2, 1.3, -0.08)], "GatesPassed"),
        ([compared(-0.1, -0.11), compared(0.3, 0.2, rows=0)], "GatesPassed"),
        ([measured(1.0)], "WorseThanBaseRate"),
        ([measured(1.2, rows=100), measured(0.7, rows=9000)], "GatesPassed"),
        ([measured(1.2, rows=9000), measured(0.7, rows=100)], "WorseThanBaseRate"),
        ([measured(0.7, calibration="1.3")], "Miscalibrated"),
        ([measured(0.7, calibration="0.7")], "Miscalibrated"),
        ([measured(0.7, calibration="1.25")], "GatesPassed"),
        ([measured(0.7, calibration="9.0", positives=1599)], "GatesPassed"),
        ([measured(0.7, calibration="9.0", positives=1600)], "Miscalibrated"),
        ([measured(0.7), measured(0.7, calibration="9.0", surface="all")], "GatesPassed"),
        ([compared(0.0, -0.1, calibration="9.0")], "Miscalibrated"),
        ([measured(0.7, surface="all")], "NotMeasured"),
        ([], "NotMeasured"),
        ([measured(0.7, rows=0)], "NotMeasured"),
    ],
)
def test_a_version_is_judged_by_its_measurements(measurements: list[Measurement], reason: str) -> None:
    verdict = judge(version(*measurements), EXACT)
    assert verdict.reason == reason
    assert verdict.accepted is (reason in ("GatesPassed", "Inconclusive"))


@pytest.mark.parametrize(
    ("aggregate", "measurements", "gates", "reason"),
    [
        (whole(0.006, 0.0005), [], {"trainingNoise": "0", "minPositives": 0}, "NEIncreased"),
        (whole(0.0055, 0.0006), [], {"trainingNoise": "0", "minPositives": 0}, "GatesPassed"),
        # 0.02 is in both versions, so 1.645 * 0.02 * sqrt(2) = 0.0465 is what chance alone may do.
        (whole(0.051, 0.0), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0.02"}, "Inconclusive"),
        (whole(0.052, 0.0), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0.02"}, "NEIncreased"),
        # Both kinds of noise add as squares: 0.0465 and 0.0465 make 0.0658.
        (whole(0.070, 0.0465), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0.02"}, "Inconclusive"),
        (whole(0.072, 0.0465), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0.02"}, "NEIncreased"),
        # Better by more than chance: within the limit, however wide the bounds are.
        (whole(-0.040, 0.0), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0.02"}, "Inconclusive"),
        (whole(-0.043, 0.0), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0.02"}, "GatesPassed"),
        # Bounds as wide as the limit can tell.
        (whole(0.003, 0.0049), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0"}, "GatesPassed"),
        (whole(0.003, 0.0051), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0"}, "Inconclusive"),
        # The aggregate is judged, not the mean of the tasks; and each task against its own limit.
        (whole(0.0), [compared(0.019, 0.0185, 0.0195)], {"trainingNoise": "0"}, "GatesPassed"),
        (whole(0.0), [compared(0.022, 0.0215, 0.0225)], {"trainingNoise": "0"}, "TaskNEIncreased"),
        (whole(0.0), [compared(0.022, 0.0215, 0.0225)], {"trainingNoise": "0", "maxNEIncrease": "0.03"}, "GatesPassed"),
        (whole(0.0), [compared(0.022, 0.0215)], {"trainingNoise": "0", "maxTaskNEIncrease": "0.03"}, "GatesPassed"),
        (whole(0.0), [compared(0.12, 0.119, 0.121)], {"trainingNoise": "0.02"}, "TaskNEIncreased"),
        (whole(0.0), [compared(0.08, 0.079, 0.081)], {"trainingNoise": "0.02"}, "Inconclusive"),
        # Too few positives to say anything.
        (whole(0.3, positives=99), [compared(0.3, 0.29, positives=99)], {}, "Inconclusive"),
        (whole(0.3, positives=100), [compared(0.3, 0.29, positives=99)], {}, "NEIncreased"),
        (whole(0.0, positives=100), [compared(0.0, -0.001, positives=99)], {"trainingNoise": "0"}, "Inconclusive"),
        # Without a baseline only the base rate is there to be beaten.
        (whole(), [measured(1.2)], {}, "GatesPassed"),
        (whole(ne="1.0"), [measured(0.7)], {}, "WorseThanBaseRate"),
        # What has no rows stands for nothing.
        (whole(0.3, rows=0), [compared(0.0, -0.001, 0.001)], {"trainingNoise": "0"}, "GatesPassed"),
    ],
)
def test_a_version_is_judged_by_its_aggregate_and_guarded_by_its_tasks(
    aggregate: Aggregate, measurements: list[Measurement], gates: dict[str, Any], reason: str
) -> None:
    verdict = judge(version(*measurements, aggregate=aggregate), Gates.model_validate(gates))
    assert (verdict.reason, verdict.message) == (reason, verdict.message)
    assert verdict.accepted is (reason in ("GatesPassed", "Inconclusive"))


def test_the_more_tasks_are_judged_the_surer_a_guard_must_be() -> None:
    # Bounds 0.0165 off are a standard error of 0.01: one guard rejects at 2.33 of them, twenty at 3.29.
    worse = compared(0.048, 0.0315, 0.0645)
    others = [compared(0.0, -0.0165, 0.0165, surface=f"s{number}") for number in range(19)]
    assert judge(version(worse, aggregate=whole(0.0)), EXACT).reason == "TaskNEIncreased"
    assert judge(version(worse, *others, aggregate=whole(0.0)), EXACT).reason == "GatesPassed"
    small = [entry.model_copy(update={"positives": 99}) for entry in others]
    assert judge(version(worse, *small, aggregate=whole(0.0)), EXACT).reason == "TaskNEIncreased"


def test_an_inconclusive_version_is_accepted_or_rejected_as_the_gates_say() -> None:
    landed = version(compared(0.0, -0.02, 0.02), aggregate=whole(0.0, 0.02))
    accepted = judge(landed, Gates())
    rejected = judge(landed, Gates(inconclusive="Reject"))
    assert (accepted.accepted, accepted.reason) == (True, "Inconclusive")
    assert (rejected.accepted, rejected.reason) == (False, "Inconclusive")
    for part in ("-6.15% and +6.15%", "trainingNoise 2.50%", "maxNEIncrease 0.50%", "one-sided 95 %", "hold out more"):
        assert part in accepted.message
    assert "gates.inconclusive is Accept, so the canary judges next" in accepted.message
    assert "gates.inconclusive is Reject, so v1 goes on serving" in rejected.message


def test_too_few_positives_are_told_with_their_number() -> None:
    few = compared(0.3, 0.29, positives=99, surface="ads", task="purchase")
    verdict = judge(version(few, aggregate=whole(0.3, positives=99)), Gates())
    assert "no task has 100 positives (gates.minPositives), the most has 99" in verdict.message
    more = few.model_copy(update={"task": "click"})
    passed = judge(version(compared(0.0, -0.001, 0.001), few, more, aggregate=whole(0.0)), EXACT)
    assert passed.reason == "GatesPassed"
    assert "not judged alone: ads/purchase with 99 positives and 1 more (gates.minPositives is 100)" in passed.message


def test_a_guards_rejection_names_the_task_the_bound_and_how_many_were_judged() -> None:
    entries = [compared(0.3, 0.29, 0.31, surface="feed"), compared(0.0, -0.001, 0.001), compared(0.1, 0.09, 0.11)]
    message = judge(version(*entries, aggregate=whole(0.0)), EXACT).message
    for part in ("feed/click", "+30.00%", "v1", "one-sided 99.67% lower bound", "one of 3 guards", "goes on serving"):
        assert part in message
    assert "gates.maxTaskNEIncrease allows +2.00%" in message


HOSTILE = ["1e9999", "-1e9999", "1e9999999999999999999", "9e99999999999999999", "NaN", "Infinity", "-Infinity", "x", ""]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "field", ["ne", "calibration", "baseline_ne", "ne_increase", "ne_increase_low", "ne_increase_high"]
)
def test_a_number_beyond_measure_is_a_verdict_in_words_and_never_an_exception(field: str, text: str) -> None:
    landed = version(measured(0.7), measured(0.7, 0.71, -0.02).model_copy(update={field: text}))
    verdict = judge(landed, Gates())
    assert (verdict.accepted, verdict.reason) == (False, "NotFinite")
    assert text in verdict.message
    assert "lower training.learningRate" in verdict.message
    if field != "calibration":
        whole_too = version(measured(0.7), aggregate=whole(0.0).model_copy(update={field: text}))
        assert judge(whole_too, Gates()).message.startswith("aggregate: ")
        assert quality(whole_too).ne_text == "0.7000"
    assert quality(landed).ne_text == "0.7000"


@pytest.mark.parametrize("text", ["1e-9999", "0e9999", "1e-99999999999999999", "0.0000000000001"])
def test_a_number_too_small_to_tell_from_zero_is_zero(text: str) -> None:
    landed = version(measured(0.7, ne_increase_low=text, ne_increase=text, baseline_ne="0.7"))
    assert judge(landed, EXACT).reason == "GatesPassed"
    assert quality(version(measured(0.7).model_copy(update={"ne": text}))).ne_text == "0.0000"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ne": "-0.1"}, "ne -0.1"),
        ({"calibration": "-1"}, "calibration -1"),
        ({"baseline_ne": "-0.7"}, "baselineNe -0.7"),
        ({"rows": -5000}, "2000 positives of -5000 rows"),
        ({"positives": -1}, "-1 positives of 5000 rows"),
        ({"ne_increase_high": "-0.03"}, "neIncreaseLow -0.02 above neIncreaseHigh -0.03"),
    ],
)
def test_what_no_measurement_gives_is_not_measured(changes: dict[str, Any], words: str) -> None:
    landed = version(measured(0.6), measured(0.7, 0.71, -0.02).model_copy(update=changes))
    verdict = judge(landed, Gates())
    assert (verdict.accepted, verdict.reason) == (False, "NotMeasured")
    assert f"reels/click: {words}, which no measurement gives" in verdict.message


def test_an_aggregate_that_nothing_gives_is_not_measured() -> None:
    for changes in ({"ne": "-1"}, {"rows": -1}, {"ne_increase_low": "0.5"}):
        verdict = judge(version(measured(0.6), aggregate=whole(0.0).model_copy(update=changes)), Gates())
        assert (verdict.accepted, verdict.reason) == (False, "NotMeasured")
        assert verdict.message.startswith("aggregate: ")


def test_the_largest_number_that_counts_is_a_billion() -> None:
    assert judge(version(measured(0.7, calibration="1000000000", positives=1)), Gates()).accepted
    assert judge(version(measured(0.7, calibration="1000000001", positives=1)), Gates()).reason == "NotFinite"


def test_what_cannot_be_read_is_left_out_of_the_means() -> None:
    entries = [measured(0.6, rows=1000), measured(0.9, 0.8, rows=3000).model_copy(update={"ne": "1e400"})]
    mean = quality(version(*entries))
    assert (mean.rows, mean.ne_text, mean.change_text) == (1000, "0.6000", "")
    assert quality(version(*entries, measured(0.9).model_copy(update={"rows": -500}))) == mean
    half = quality(version(measured(0.6, 0.5).model_copy(update={"baseline_ne": "1e400"}), measured(0.8, 0.7)))
    assert (half.rows, half.ne_text, half.change_text) == (10000, "0.7000", "+0.1000")


@given(
    numbers=st.lists(st.sampled_from([*HOSTILE, "0", "0.7", "-1", "1e5", "1e-5"]), min_size=6, max_size=6),
    rows=st.integers(-(2**63), 2**63),
    positives=st.integers(-(2**63), 2**63),
    given=st.sampled_from(
        [{}, {"minPositives": 0, "trainingNoise": "0"}, {"trainingNoise": "1", "maxNEIncrease": "9999999999999999"}]
    ),
)
def test_no_measurement_whatever_makes_the_judge_raise(
    numbers: list[str], rows: int, positives: int, given: dict[str, Any]
) -> None:
    fields = ("ne", "calibration", "baseline_ne", "ne_increase", "ne_increase_low", "ne_increase_high")
    entry = measured(0.7).model_copy(update=dict(zip(fields, numbers, strict=True)) | {"rows": rows})
    named = dict(zip(fields, numbers, strict=True)) | {"rows": rows, "positives": positives}
    del named["calibration"]
    landed = version(entry.model_copy(update={"positives": positives}), measured(0.6))
    for spec in (landed, landed.model_copy(update={"aggregate": whole(0.0).model_copy(update=named)})):
        verdict = judge(spec, Gates.model_validate(given))
        assert len(verdict.message) < 600
        assert len(quality(spec).ne_text) < 24
        if any(text in HOSTILE for text in numbers):
            assert not verdict.accepted


def test_weights_that_are_not_finite_are_rejected_however_good_they_measured() -> None:
    assert judge(version(measured(0.5), finite=False), Gates()).reason == "NotFinite"


def test_a_wider_gate_accepts_what_a_narrow_one_rejects() -> None:
    landed = version(compared(0.14, 0.13))
    assert not judge(landed, Gates()).accepted
    assert judge(landed, Gates.model_validate({"maxNEIncrease": "0.2"})).accepted


def test_a_rejection_carries_the_numbers_and_who_goes_on_serving() -> None:
    verdict = judge(version(compared(0.06, 0.04)), EXACT)
    for part in ("0.7420", "+6.00%", "v1", "5000 held-out rows", "+4.00%", "+0.50%", "one-sided 95 % lower bound"):
        assert part in verdict.message
    assert "v1 goes on serving" in verdict.message


def test_an_acceptance_says_by_how_much_it_is_better() -> None:
    assert (
        judge(version(measured(0.69, 0.70, -0.0150)), EXACT).message
        == "NE 0.6900 (-0.0100 against v1) over 5000 held-out rows"
    )


@pytest.mark.parametrize(
    ("low", "limit", "positives", "reason"),
    [
        ("0.030000", "0.03", 100, "GatesPassed"),
        ("0.030001", "0.03", 100, "MovingGap"),
        ("0.030001", "0.03", 99, "GatesPassed"),  # too few to tell
        ("0.005001", "0.005", 100, "MovingGap"),
        ("-0.010000", "0", 100, "GatesPassed"),
        ("Infinity", "0.03", 100, "NotFinite"),
    ],
)
def test_a_foundation_that_goes_stale_within_its_tail_does_not_serve(
    low: str, limit: str, positives: int, reason: str
) -> None:
    gap = Aggregate.model_construct(
        rows=900, positives=positives, ne="0.8", baseline_ne="0.7", ne_increase="0.14", ne_increase_low=low,
        ne_increase_high="0.2",
    )  # fmt: skip
    tail = Tail(segments=2, watermark="2026-01-01T00:00:00Z", learned=True, similarity="0.98")
    made = version(measured(0.69)).model_copy(update={"tail": tail.model_copy(update={"gap": gap})})
    assert judge(made, FoundationGates(max_moving_gap=limit)).reason == reason
    if reason == "MovingGap":
        for part in ("NE 0.8000", "0.7000", "+14.00%", f"{float(low):+.2%}", "shorten spec.data.tail"):
            assert part in judge(made, FoundationGates(max_moving_gap=limit)).message
        assert judge(made, Gates()).reason == "GatesPassed"  # no expert has a tail of its own


@pytest.mark.parametrize("learned", [True, False])
def test_a_verdict_says_where_what_serves_has_learned_the_rows_since(learned: bool) -> None:
    tail = Tail(segments=2, watermark="2026-01-01T00:00:00Z", learned=learned, similarity="0.98")
    message = judge(version(measured(0.69, 0.70, -0.0150)).model_copy(update={"tail": tail}), EXACT).message
    assert message.endswith("over 5000 held-out rows, learned since" if learned else "over 5000 held-out rows")


def test_means_are_weighted_by_rows_and_changes_only_over_pairs() -> None:
    entries: list[Any] = [measured(0.6, rows=1000), measured(0.8, 0.7, 0.0, rows=3000)]
    mean = quality(version(*entries))
    assert (mean.rows, mean.ne_text, mean.change_text) == (4000, "0.7500", "+0.1000")
    assert quality(version(*entries, measured(0.1, 0.2, 0.0, surface="all"))) == mean
    assert quality(version(*entries, aggregate=whole(-0.1))).ne_text == "0.6300"
    assert quality(version(*entries, aggregate=whole(-0.1))).change_text == "-0.0700"


def test_without_an_aggregate_increases_and_their_errors_are_means_weighted_by_rows() -> None:
    found = quality(version(compared(0.04, 0.0235, rows=3000), compared(0.08, 0.0306, rows=1000))).increase
    assert found is not None
    assert found.mean == pytest.approx(0.05)
    assert found.error == pytest.approx((3 * 0.0165 + 0.0494) / 4 / 1.6449, rel=1e-4)
