"""What a request sees of the past, and what a version ships of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recast_model.history import Histories, History
from recast_model.snapshot import HISTORY_FILE, HistorySnapshot

Event = tuple[int, int, int, int]  # user, surface, time, available


def histories(*events: Event, by_surface: bool = False) -> Histories:
    """Of these events; each one's item is its place, from 1, and its actions are the place times ten."""
    table = np.array(events, np.int64).reshape(-1, 4)
    places = np.arange(1, len(table) + 1)
    made = History(places, table[:, 1], places * 10, table[:, 2], table[:, 3])
    return Histories(table[:, 0], made, by_surface=by_surface)


def seen(of: Histories, user: int, time: int, surface: int = 0, limit: int = 100) -> list[int]:
    (start,), (length,) = of.window(np.array([user]), np.array([surface]), np.array([time]), limit)
    return [int(item) for item in of.events.items[start : start + length]]


MIXED = ((7, 1, 10, 40), (7, 0, 20, 30), (3, 0, 5, 50), (7, 0, 25, 26), (7, 1, 28, 29))


@pytest.mark.parametrize(
    ("user", "time", "expected"),
    [(7, 26, []), (7, 27, [4]), (7, 30, [4, 5]), (7, 31, [4, 5, 2]), (7, 40, [4, 5, 2]), (7, 41, [4, 5, 2, 1]),
     (3, 50, []), (3, 51, [3]), (5, 99, [])],
)  # fmt: skip
def test_a_request_sees_what_was_known_strictly_before_it_in_the_order_in_which_it_became_known(
    user: int, time: int, expected: list[int]
) -> None:
    assert seen(histories(*MIXED), user, time) == expected


@pytest.mark.parametrize(
    ("surface", "time", "expected"), [(0, 99, [4, 2]), (1, 99, [5, 1]), (1, 40, [5]), (0, 26, []), (2, 99, [])]
)
def test_by_surface_a_request_sees_its_own_surface_alone(surface: int, time: int, expected: list[int]) -> None:
    assert seen(histories(*MIXED, by_surface=True), 7, time, surface) == expected


def test_of_events_known_at_one_instant_the_given_order_stays() -> None:
    assert seen(histories((1, 0, 9, 10), (1, 1, 3, 10), (1, 0, 5, 10)), 1, 11) == [1, 2, 3]


def test_a_window_holds_the_newest_that_fit() -> None:
    of = histories(*((1, 0, time, time) for time in range(10)))
    assert seen(of, 1, 99, limit=8) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert seen(of, 1, 9, limit=8) == [3, 4, 5, 6, 7, 8, 9]


def snapshot(*events: Event, limit: int, until: int) -> HistorySnapshot:
    """As a version ships it: the windows of all users that are named."""
    made = histories(*events)
    users = np.unique(made.users)
    starts, lengths = made.window(users, users * 0, np.full(len(users), until), limit)
    index = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
    return HistorySnapshot.of(users, made.events.take(index), lengths, until)


def test_a_snapshot_comes_back_with_every_column_and_every_user(tmp_path: Path) -> None:
    snapshot(*MIXED, limit=3, until=41).save(tmp_path)
    back = HistorySnapshot.load(tmp_path)
    assert (back.users.tolist(), back.until) == ([7], 41)  # nothing of user 3 was known
    own = back.lookup(7)
    assert own.items.tolist() == [5, 2, 1]
    assert own.surfaces.tolist() == [1, 0, 1]
    assert own.actions.tolist() == [50, 20, 10]
    assert own.times.tolist() == [28, 20, 10]
    assert own.available.tolist() == [29, 30, 40]
    later = snapshot(*MIXED, limit=3, until=51)
    assert later.lookup(3).items.tolist() == [3]


def test_a_snapshot_is_small_and_answers_in_the_types_that_models_read(tmp_path: Path) -> None:
    made = snapshot(*MIXED, limit=3, until=51)
    assert sum(values.itemsize for values in vars(made.events).values()) == 25
    made.save(tmp_path)
    back = HistorySnapshot.load(tmp_path)
    assert [values.dtype for values in vars(back.events).values()] == [
        values.dtype for values in vars(made.events).values()
    ]
    assert {values.dtype for values in vars(back.lookup(7)).values()} == {np.dtype(np.int64)}


def test_snapshots_of_some_users_each_are_one_of_all(tmp_path: Path) -> None:
    parts = [snapshot((user, 0, 1, 2), (user, 1, 3, 4 + user), limit=9, until=8) for user in (2, 3, 7)]
    whole = HistorySnapshot.concatenate(parts, 8)
    assert (whole.users.tolist(), whole.offsets.tolist(), whole.until) == ([2, 3, 7], [0, 2, 4, 5], 8)
    for user, part in zip((2, 3, 7), parts, strict=True):
        assert whole.lookup(user).times.tolist() == part.lookup(user).times.tolist()
    none = HistorySnapshot.concatenate([], 5)
    assert (len(none.users), none.offsets.tolist(), none.until, len(none.lookup(3))) == (0, [0], 5, 0)


def test_a_version_of_before_events_had_two_times_is_read_as_if_all_had_been_known_at_once(tmp_path: Path) -> None:
    snapshot(*MIXED, limit=3, until=41).save(tmp_path)
    tensors = load_file(tmp_path / HISTORY_FILE)
    del tensors["available"]
    save_file(tensors, tmp_path / HISTORY_FILE)
    own = HistorySnapshot.load(tmp_path).lookup(7)
    assert own.available.tolist() == own.times.tolist() == [28, 20, 10]
