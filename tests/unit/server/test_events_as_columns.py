"""Columns of events: what they hold, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from past_events import rows

from recast_server.runtime.events import MAX_EVENTS, MAX_SURFACES, MAX_TASKS, NAME_LENGTH, Events

NAMES = st.sampled_from([f"n{i}" for i in range(8)])


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def two(**changes: Any) -> Events:
    """Two events that could have happened, but for the changes."""
    right: dict[str, Any] = {
        "item": ints(5, 6), "surface": ints(0, 1), "actions": ints(0, 3), "time_ms": ints(10, 20),
        "available_ms": ints(10, 25), "surfaces": ("feed", "reels"), "tasks": ("click", "like"),
    }  # fmt: skip
    return Events(**(right | changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"item": ints(-1, 6)}, "item", id="an id below zero"),
        pytest.param({"item": np.array([5, 6], np.int32)}, "item", id="other integers"),
        pytest.param({"item": ints(5)}, "surface", id="columns of other lengths"),
        pytest.param({"item": ints(5, 6).reshape(2, 1)}, "item", id="a column of two dimensions"),
        pytest.param({"surface": ints(0, 2)}, "surface", id="a surface without a name"),
        pytest.param({"surface": ints(0, -1)}, "surface", id="a surface counted from the end"),
        pytest.param({"actions": ints(0, 4)}, "actions", id="an action without a name"),
        pytest.param({"actions": ints(0, -1)}, "actions", id="a negative mask"),
        pytest.param({"time_ms": ints(-10, 20)}, "time_ms", id="before 1970"),
        pytest.param({"available_ms": ints(10, 19)}, "available_ms", id="known before it happened"),
        pytest.param({"surfaces": ("feed", "feed")}, "surfaces", id="a name twice"),
        pytest.param({"surfaces": ("feed", "")}, "surfaces", id="no name"),
        pytest.param({"tasks": ("click", "x" * (NAME_LENGTH + 1))}, "tasks", id="a long name"),
        pytest.param({"tasks": tuple(f"t{i}" for i in range(MAX_TASKS + 1))}, "tasks", id="many tasks"),
        pytest.param({"surfaces": tuple(f"s{i}" for i in range(MAX_SURFACES + 1))}, "surfaces", id="many surfaces"),
    ],
)
def test_what_cannot_have_happened_is_refused_by_the_name_of_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        two(**changes)


def test_there_is_a_most_that_a_history_may_hold() -> None:
    zeros = np.zeros(MAX_EVENTS + 1, np.int64)
    with pytest.raises(ValueError, match=r"^item: at most"):
        Events(zeros, zeros, zeros, zeros, zeros, ("feed",))
    assert len(Events(*(zeros[1:],) * 5, surfaces=("feed",))) == MAX_EVENTS


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**63 - 1), NAMES, st.lists(NAMES, max_size=4), st.integers(0, 2**60),
            st.none() | st.integers(0, 2**60),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_columns_say_what_the_names_said_and_nothing_is_known_before_it_happens(
    given_events: list[tuple[int, str, list[str], int, int | None]],
) -> None:
    columns = list(zip(*given_events, strict=True)) or [()] * 5
    events = Events.named(columns[0], columns[1], columns[2], columns[3], columns[4])
    expected = [(i, s, frozenset(a), t, t if k is None else max(t, k)) for i, s, a, t, k in given_events]
    assert rows(events) == expected
    assert rows(events.take(slice(None, None, 2))) == expected[::2]


def test_an_event_is_known_when_it_happened_where_nothing_else_is_said() -> None:
    assert rows(Events.named([5], ["feed"], [["click"]], [10])) == [(5, "feed", frozenset({"click"}), 10, 10)]


def test_the_last_bit_of_a_mask_is_an_action_too() -> None:
    names = [f"t{i}" for i in range(MAX_TASKS)]
    events = Events.named([5, 5], ["feed"] * 2, [names, names[-1:]], [1, 2])
    assert rows(events)[1][2] == {names[-1]}
    with pytest.raises(ValueError, match=r"^tasks: at most"):
        Events.named([5], ["feed"], [[*names, "one more"]], [1])
