"""Which of the waiting work runs next, and which is not worth running any more."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recast_server.runtime.batching import Selection, Work, select
from recast_server.runtime.cost import CostModel

NOW = 100.0
SMALL = CostModel(overhead=0.004, per_request=0.001)  # full at sixteen
ENGINE, OTHER = object(), object()


def work(within: float = 10.0, *, engine: Any = ENGINE, shape: Any = 16, units: float = 1.0) -> Work:
    return Work(engine, None, units, shape, NOW + within)


def test_all_that_waits_runs_together() -> None:
    assert select([work()] * 5, SMALL, NOW) == Selection([0, 1, 2, 3, 4], [])
    assert select([], SMALL, NOW) == Selection([], [])


def test_a_batch_ends_where_more_would_save_nothing() -> None:
    assert select([work()] * 40, SMALL, NOW).batch == list(range(16))
    large = CostModel(overhead=0.001, per_unit=0.01)
    assert select([work()] * 5, large, NOW).batch == [0]


def test_a_batch_never_mixes_engines_or_sizes_and_the_oldest_goes_first() -> None:
    queue = [work(shape=8), work(), work(shape=8), work(shape=8, engine=OTHER)]
    assert select(queue, SMALL, NOW) == Selection([0, 2], [])
    assert select(queue[1:], SMALL, NOW) == Selection([0], [])


def test_what_cannot_end_in_time_is_dropped_and_the_rest_runs() -> None:
    queue = [work(-1.0), work(0.0049), work(0.0051), work(10.0)]
    found = select(queue, SMALL, NOW)
    assert found.late == [0, 1]
    assert found.batch[0] == 2


def test_nobody_is_made_late_by_company() -> None:
    assert select([work(0.0055), work(), work()], SMALL, NOW) == Selection([0], [])
    assert select([work(0.0065), work(), work()], SMALL, NOW) == Selection([0, 1], [])
    assert select([work(), work(0.0055), work()], SMALL, NOW) == Selection([0, 2], [])


def test_where_all_would_be_late_the_one_with_most_time_runs_all_the_same() -> None:
    slow = CostModel(overhead=1.0)
    assert select([work(0.1), work(0.3), work(0.2), work(-0.1)], slow, NOW) == Selection([1], [0, 2, 3])
    assert select([work(-0.1), work(0.0)], slow, NOW) == Selection([], [0, 1])


works = st.builds(
    work,
    st.floats(-1, 2),
    engine=st.sampled_from([ENGINE, OTHER]),
    shape=st.sampled_from([8, 16]),
    units=st.floats(0.1, 50),
)
costs = st.builds(CostModel, st.floats(0, 0.1), st.floats(0, 0.1), st.floats(0, 0.01), st.floats(0.1, 10))


@given(st.lists(works, max_size=30), costs)
def test_whatever_waits_each_is_in_one_place_and_something_runs_if_it_can(queue: list[Work], cost: CostModel) -> None:
    found = select(queue, cost, NOW)
    assert not set(found.batch) & set(found.late)
    assert found.batch == sorted(found.batch)
    assert len({(id(queue[place].engine), queue[place].shape) for place in found.batch}) <= 1
    assert bool(found.batch) == any(each.deadline > NOW for each in queue)
    assert all(queue[place].deadline > NOW for place in found.batch)
    if len(found.batch) > 1:
        ends = NOW + cost.batch(len(found.batch), sum(queue[place].units for place in found.batch))
        assert ends <= min(queue[place].deadline for place in found.batch) + 1e-9
