"""What stands in for embeddings that do not come: the ladder, its ages and its memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_server.expert.tae_cache import ANSWERS, OVERHEAD_BYTES, TaeCache

PLENTY, AGE = 1 << 20, 60.0


def rows(*values: float) -> np.ndarray:
    """A row of two numbers each."""
    return np.array([[value, -value] for value in values], np.float16)


def a_cache() -> TaeCache:
    cache = TaeCache(PLENTY, AGE)
    cache.remember(1, [10, 11], rows(1, 2), 100.0)
    return cache


@pytest.mark.parametrize(
    ("user", "candidates", "now", "source", "values"),
    [
        (1, [11, 10], 100.0, "cached", [2, 1]),
        (1, [10, 10], 100.0, "cached", [1, 1]),
        (1, [10, 99], 100.0, "pooled", [1, 1.5]),
        (1, [9, 99], 100.0, "pooled", [1.5, 1.5]),
        (2, [10, 11], 100.0, "absent", None),
        (1, [10, 11], 160.0, "cached", [1, 2]),
        (1, [10, 11], 160.1, "absent", None),
    ],
)
def test_what_is_known_of_the_user_and_young_enough_stands_in(
    user: int, candidates: list[int], now: float, source: str, values: list[float] | None
) -> None:
    found = a_cache().recall(user, candidates, now)
    assert found.source == source
    if values is None:
        assert found.rows is None
    else:
        assert found.rows is not None
        assert found.rows.dtype == np.float16
        assert found.rows.tolist() == rows(*values).tolist()


def test_the_newest_row_of_an_item_counts_and_the_mean_is_over_all_that_is_young() -> None:
    cache = a_cache()
    cache.remember(1, [11, 12], rows(5, 6), 130.0)
    found = cache.recall(1, [10, 11, 12], 150.0)
    assert found.rows is not None
    assert (found.source, found.rows[:, 0].tolist()) == ("cached", [1, 5, 6])
    later = cache.recall(1, [10, 11], 170.0)  # the first answer is too old by now
    assert later.rows is not None
    assert (later.source, later.rows[:, 0].tolist()) == ("pooled", [5.5, 5])


def test_the_mean_of_many_large_rows_is_no_overflow() -> None:
    cache = TaeCache(PLENTY, AGE)
    cache.remember(1, list(range(4)), rows(6e4, 6e4, 6e4, 6e4), 0.0)
    found = cache.recall(1, [99], 0.0)
    assert found.rows is not None
    assert np.isfinite(found.rows).all()


@pytest.mark.parametrize(("capacity", "age"), [(0, AGE), (PLENTY, 0)])
def test_a_cache_that_is_off_keeps_nothing(capacity: int, age: float) -> None:
    cache = TaeCache(capacity, age)
    cache.remember(1, [10], rows(1), 100.0)
    assert cache.bytes == 0
    assert cache.recall(1, [10], 100.0).source == "absent"


def test_an_answer_larger_than_the_cache_moves_nobody_out() -> None:
    cache = TaeCache(OVERHEAD_BYTES + 100, AGE)
    cache.remember(1, [10], rows(1), 100.0)
    cache.remember(2, list(range(100)), rows(*range(100)), 100.0)
    assert cache.recall(1, [10], 100.0).source == "cached"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20), st.floats(0, 100)), max_size=60))
def test_it_never_holds_more_than_it_may_and_what_was_told_last_is_there(asked: list[tuple[int, int, float]]) -> None:
    capacity = 4 * (OVERHEAD_BYTES + 20 * 12)
    cache, now = TaeCache(capacity, AGE), 0.0
    for user, count, passed in asked:
        now += passed
        cache.remember(user, list(range(count)), rows(*range(count)), now)
        assert 0 <= cache.bytes <= capacity
        assert cache.bytes == sum(answer.bytes for kept in cache._users.values() for answer in kept)
        assert all(0 < len(kept) <= ANSWERS for kept in cache._users.values())
        assert cache.recall(user, list(range(count)), now).source == "cached"
