"""The window of a user at a time is one, wherever it is read: a trainer's stream, a version's snapshot, a store."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import strategies as st

from recast_model.history import History
from recast_server.histories.artifact import ArtifactStore
from recast_server.histories.store import HistoryStore, Read
from recast_server.runtime.events import Events
from recast_trainer.data.histories import events_of
from recast_trainer.data.schema import Rows
from tests.history_stores import append_all, told
from tests.unit.data.data_builders import DATASET, ITEMS, START, labelled, requests_of, rows, stream_of

DELAYS = [0, 1, 7, 100, 400]
EVENTS = st.lists(
    st.tuples(
        st.integers(1, 3), st.integers(0, 1), st.integers(100, 139), st.integers(0, 300), st.sampled_from(DELAYS)
    ),
    min_size=1,
    max_size=40,
)
"""Of rows: user, surface, item, when it was shown, and a delay that the labels' own replace."""
LABELS = st.lists(
    st.lists(st.tuples(st.sampled_from([1, 1, 0, -1]), st.sampled_from(DELAYS)), min_size=3, max_size=3),
    min_size=40,
    max_size=40,
)
"""Of each row and task: the label, -1 for none, and how long it takes until it is known."""
NAMES = (DATASET.surface_names, DATASET.tasks)
Told = list[tuple[object, ...]]


def named(history: History) -> Told:
    """A window of raw ids, as :func:`tests.history_stores.told` says it."""
    return told(Events(history.items, history.surfaces, history.actions, history.times, history.available, *NAMES))


def the_stream(events: list[tuple[int, int, int, int, int]], labels: list[list[tuple[int, int]]]) -> Rows:
    """The rows with their labels."""
    return labelled(rows(events), labels)


def became_known(made: Rows, user: int, every_row: bool) -> Events:
    """What became known of a user's rows, in the order of the rows."""
    found = events_of(made, None, engagements_only=not every_row)
    own = found.take(np.flatnonzero(found.users == user))
    own = own.take(np.argsort(own.row_ids, kind="stable"))
    h = own.history
    return Events(h.items, h.surfaces, h.actions, h.times, h.available, *NAMES)


async def fill(store: HistoryStore, made: Rows, every_row: bool, random: Random, late: int) -> None:
    """All that became known, in a legal order of arrival."""
    for user in np.unique(made.users).tolist():
        await append_all(store, became_known(made, user, every_row), random, late, user)


async def require_each_request_sees_the_same(
    store: HistoryStore, made: Rows, limit: int, surface: int | None, every_row: bool
) -> None:
    """Each request of the stream, in the trainer and in a store that keeps everything."""
    found = requests_of(stream_of(made, (0, 1000), "Events" if every_row else "Engagements"), limit, surface)
    ends, name = np.cumsum(found.history_lengths), None if surface is None else DATASET.surface_names[surface]
    for place in range(len(found)):
        window = found.history.take(slice(int(ends[place] - found.history_lengths[place]), int(ends[place])))
        read = await store.read(int(found.users[place]))
        assert isinstance(read, Read)
        assert told(read.history.window(int(found.times[place]), limit, name)) == named(window)


async def require_the_end_is_the_same(
    store: HistoryStore, made: Rows, limit: int, surface: int | None, every_row: bool
) -> None:
    """Every user at the end of the data, in the trainer, in its snapshot and in a store that keeps a window alone."""
    walk = stream_of(made, (0, 1000), "Events" if every_row else "Engagements").walk(limit, surface=surface)
    for _ in walk:
        pass
    end, name = START + 1000, None if surface is None else DATASET.surface_names[surface]
    snapshot = ArtifactStore(walk.snapshot(ITEMS), ITEMS, *NAMES)
    for user in range(1, 5):
        trained, _ = walk.histories.windows(np.array([user]), np.array([end]))
        shipped, read = await snapshot.read(user), await store.read(user)
        assert isinstance(shipped, Read)
        assert isinstance(read, Read)
        assert told(shipped.history.window(end, limit, name)) == named(trained)
        assert told(read.history.window(end, limit, name)) == named(trained)
