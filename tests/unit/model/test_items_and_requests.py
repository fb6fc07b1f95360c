"""Raw ids to dense indices and content, and requests to padded arrays."""

from __future__ import annotations

import numpy as np
import pytest

from recast_model.features import Request, collate
from recast_model.history import History, anchored_start, pad_histories
from recast_model.items import ItemTable
from recast_model.snapshot import HistorySnapshot

CONTENT = np.arange(6, dtype=np.float32).reshape(3, 2) + 1
ITEMS = ItemTable(np.array([5, 7, 9], np.int64), CONTENT)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def history(*items: int, surface: int = 0) -> History:
    places = np.array(items, np.int64)
    return History(places, np.full(len(items), surface), places + 10, places + 100, places + 200)


def test_an_item_has_its_own_content_and_an_unknown_one_has_none() -> None:
    dense = ITEMS.index(np.array([[9, 5], [4, 10]]))
    assert dense.tolist() == [[3, 1], [0, 0]]
    matrix = ITEMS.content_matrix()
    assert matrix[dense[0]].tolist() == [CONTENT[2].tolist(), CONTENT[0].tolist()]
    assert matrix[0].tolist() == [0, 0]
    empty = ItemTable(ints(), np.zeros((0, 2), np.float32))
    assert empty.index(ints(5)).tolist() == [0]
    assert empty.content_matrix().tolist() == [[0, 0]]


@pytest.mark.parametrize("ids", [(5, 5, 9), (5, 9, 7)])
def test_item_ids_ascend_and_none_repeats(ids: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascend without repetition"):
        ItemTable(ints(*ids), CONTENT)


def test_every_item_has_one_vector() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) does not hold one vector for each of 3 items"):
        ItemTable(ints(5, 7, 9), CONTENT[:2])


def test_slates_and_histories_of_different_lengths_stay_with_their_own_request() -> None:
    requests = [
        Request(1, 0, 250, ints(3, 1, 2), history(1, 2)),
        Request(2, 1, 260, ints(2), history()),
        Request(1, 0, 270, ints(1, 3), history(3)),  # the same user, who has sent another history by now
    ]
    made = collate(requests, history_length=4)
    assert made.candidates.tolist() == [[3, 1, 2], [2, 0, 0], [1, 3, 0]]
    assert made.candidate_mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert made.history_items.tolist() == [[1, 2], [0, 0], [3, 0]]
    assert made.history_actions.tolist() == [[11, 12], [0, 0], [13, 0]]
    assert made.history_times.tolist() == [[101, 102], [0, 0], [103, 0]]
    assert made.history_lengths.tolist() == [2, 0, 1]
    assert (made.users.tolist(), made.surfaces.tolist()) == ([1, 2, 1], [0, 1, 0])
    assert made.request_times.tolist() == [250, 260, 270]


def test_an_expert_reads_the_last_of_its_own_surface_and_not_its_own_of_the_last() -> None:
    mixed = History.concatenate([history(1, 2, surface=1), history(3, 4, 5, 6, surface=0)])
    request = Request(1, 1, 250, ints(1), mixed)
    assert collate([request], 4, surface_only=True).history_items.tolist() == [[1, 2]]
    assert collate([request], 4).history_items.tolist() == [[3, 4, 5, 6]]
    assert collate([], 4).candidates.shape == (0, 0)


@pytest.mark.parametrize(
    ("total", "start"), [(0, 0), (8, 0), (9, 2), (10, 2), (11, 4), (16, 8), (17, 10)], ids=lambda value: str(value)
)
def test_a_window_of_eight_starts_at_multiples_of_two(total: int, start: int) -> None:
    assert int(anchored_start(np.asarray(total), 8)) == start
    assert anchored_start(np.asarray([total, 0]), 8).tolist() == [start, 0]


def test_a_window_of_fewer_than_four_moves_event_by_event() -> None:
    assert [int(anchored_start(np.asarray(total), 3)) for total in (3, 4, 5)] == [0, 1, 2]


def test_padding_is_zero_in_every_column() -> None:
    events = history(1, 2, 3, surface=1)
    padded, lengths = pad_histories(events, ints(2, 0), ints(1, 2))
    assert lengths.tolist() == [1, 2]
    for name, expected in (
        ("items", [[3, 0], [1, 2]]), ("surfaces", [[1, 0], [1, 1]]),
        ("actions", [[13, 0], [11, 12]]), ("times", [[103, 0], [101, 102]]), ("available", [[203, 0], [201, 202]]),
    ):  # fmt: skip
        assert getattr(padded, name).tolist() == expected, name


def test_a_snapshot_gives_each_user_its_own_window_and_strangers_none() -> None:
    snapshot = HistorySnapshot(ints(3, 8), ints(0, 2, 3), history(1, 2, 3), 5)
    assert {user: snapshot.lookup(user).items.tolist() for user in (2, 3, 5, 8, 9)} == {
        2: [], 3: [1, 2], 5: [], 8: [3], 9: [],
    }  # fmt: skip
