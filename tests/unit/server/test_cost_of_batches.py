"""What a batch is expected to take: learned from warm-up, corrected by every batch that runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_server.runtime.cost import LARGEST_SURPRISE, CostModel, Sample

SIZES = [(1, 0.5), (1, 40.0), (8, 4.0), (8, 320.0), (1, 900.0)]
parts = st.floats(0, 0.01)


def measured(truth: CostModel) -> list[Sample]:
    return [Sample(requests, units, truth.batch(requests, units)) for requests, units in SIZES]


@given(parts.filter(lambda value: value > 1e-5), parts, st.floats(0, 1e-4))
def test_warm_up_tells_what_a_batch_a_request_and_a_unit_cost(
    overhead: float, per_request: float, per_unit: float
) -> None:
    truth = CostModel(overhead, per_request, per_unit)
    found = CostModel.fit(measured(truth))
    for requests, units in [*SIZES, (3, 77.0)]:
        assert found.batch(requests, units) == pytest.approx(truth.batch(requests, units), rel=1e-3)


@given(st.lists(st.builds(Sample, st.integers(1, 8), st.floats(0, 1e9), st.floats(0, 10)), max_size=6))
def test_whatever_was_measured_nothing_has_a_negative_cost(samples: list[Sample]) -> None:
    found = CostModel.fit(samples)
    assert min(found.overhead, found.per_request, found.per_unit) >= 0


def test_a_model_that_measured_nothing_expects_nothing() -> None:
    assert CostModel.fit([]).batch(9, 9.0) == 0.0
    assert CostModel().after(Sample(1, 1.0, 5.0)) == CostModel()


def test_an_estimate_follows_what_runs_within_some_dozens_of_batches_and_comes_back() -> None:
    cost = CostModel(0.001, 0.0, 0.0001)
    for factor in (3.0, 0.5, 1.0):
        for _ in range(60):
            cost = cost.after(Sample(1, 10.0, 0.002 * factor))
        assert cost.batch(1, 10.0) == pytest.approx(0.002 * factor, rel=0.05)


def test_one_stall_is_no_trend() -> None:
    cost = CostModel(0.001, 0.0, 0.0001)
    assert cost.after(Sample(1, 10.0, 60.0)).scale == pytest.approx(1 + 0.1 * (LARGEST_SURPRISE - 1))
    assert cost.after(Sample(1, 10.0, 0.0)).scale == pytest.approx(1 + 0.1 * (1 / LARGEST_SURPRISE - 1))


@pytest.mark.parametrize(
    "ran", [Sample(1, float("nan"), 1.0), Sample(1, 1.0, float("nan")), Sample(1, float("inf"), 1.0)]
)
def test_what_cannot_be_measured_teaches_nothing(ran: Sample) -> None:
    cost = CostModel(0.001, 0.0, 0.0001)
    assert cost.after(ran) == cost


def test_a_batch_is_full_once_batching_has_saved_what_it_can() -> None:
    small = CostModel(overhead=0.001, per_request=0.0005)
    assert [small.is_full(count, 0.0) for count in (1, 7, 8, 9)] == [False, False, True, True]
    large = CostModel(overhead=0.0005, per_unit=0.001)  # its own work is all that counts: batches would only delay
    assert large.is_full(1, 2.0)
    assert CostModel(per_request=0.001).is_full(1, 1.0)  # nothing to save


@given(
    st.floats(0, 0.01), parts, st.floats(0, 1e-4), st.lists(st.floats(0.1, 100), min_size=1, max_size=40),
    st.floats(0.1, 10),
)  # fmt: skip
def test_a_backlog_takes_no_less_than_one_batch_and_no_more_than_all_one_by_one(
    overhead: float, per_request: float, per_unit: float, units: list[float], scale: float
) -> None:
    cost = CostModel(overhead, per_request, per_unit, scale)
    backlog = cost.backlog(len(units), sum(units))
    assert backlog >= cost.batch(len(units), sum(units)) * (1 - 1e-9)
    assert backlog <= sum(cost.batch(1, each) for each in units) * (1 + 1e-9)
    assert cost.backlog(0, 0.0) == 0.0


def test_a_backlog_is_as_many_batches_as_it_fills() -> None:
    cost = CostModel(overhead=0.001, per_request=0.0005)  # full at eight
    assert cost.backlog(16, 0.0) == pytest.approx(2 * 0.001 + 16 * 0.0005)
    assert cost.backlog(17, 0.0) == pytest.approx(3 * 0.001 + 17 * 0.0005)
    assert replace(cost, scale=2.0).backlog(16, 0.0) == pytest.approx(2 * cost.backlog(16, 0.0))
