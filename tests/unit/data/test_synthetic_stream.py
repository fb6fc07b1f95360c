"""The generator: what it promises about its truth, and that one seed means one stream."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recast_trainer.data.schema import Rows
from recast_trainer.data.synthetic import SURFACES, TASKS, SyntheticConfig, SyntheticStream
from recast_trainer.data.synthetic import stream as stream_module
from recast_trainer.data.synthetic.hashing import mix, normal, uniform

SMALL = SyntheticConfig(users=60, items=200, hours=30, requests_per_hour=60)
HOUR = 3_600_000


def generate(config: SyntheticConfig) -> tuple[SyntheticStream, Rows]:
    stream = SyntheticStream(config)
    return stream, Rows.concatenate([rows for _, rows in stream.segments()])


@pytest.fixture(scope="module")
def made() -> tuple[SyntheticStream, Rows]:
    return generate(SMALL)


@pytest.fixture(scope="module")
def many() -> tuple[SyntheticStream, Rows]:
    """Enough rows to see small effects."""
    return generate(SyntheticConfig(users=2000, items=1000, hours=4, requests_per_hour=10_000))


# --- its truth


def test_the_true_probability_beats_the_base_rate_on_every_surface_and_task(made: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = made
    for index, name in enumerate(stream.dataset.surface_names):
        for task in stream.dataset.tasks_of(name):
            own = rows.take((rows.surfaces == index) & rows.label_mask[:, stream.dataset.tasks.index(task)])
            y, p = (values[:, stream.dataset.tasks.index(task)].astype(float) for values in (own.labels, own.oracle))
            rate = y.mean()
            loss = -(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()
            entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
            assert loss < 0.85 * entropy, (name, task)


def test_labels_come_as_often_as_their_probability_says_at_every_place_and_level(
    many: tuple[SyntheticStream, Rows],
) -> None:
    _, rows = many
    for column in range(rows.labels.shape[1]):
        own = rows.take(rows.label_mask[:, column])
        level = np.digitize(own.oracle[:, column], [0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
        for cell in range(8 * 9):
            member = own.positions * 9 + level == cell
            p = own.oracle[member, column].astype(float)
            surprise = own.labels[member, column].sum() - p.sum()
            assert abs(surprise) <= 4.5 * np.sqrt((p * (1 - p)).sum()) + 1, (column, divmod(cell, 9))


def test_the_true_probability_is_the_logistic_of_taste_interest_appeal_base_and_place() -> None:
    stream = SyntheticStream(replace(SMALL, hours=1))
    (_, rows) = next(stream.segments())
    awakened = set()
    for row in range(0, len(rows), 37):
        user, surface, time, place = (
            int(values[row]) for values in (rows.users, rows.surfaces, rows.event_times, rows.positions)
        )
        item = int(np.searchsorted(stream.items.ids, rows.items[row]))
        visit = np.array([user - 1]), np.array([surface]), np.array([time])
        taste = stream.users.taste(*visit)[0]
        (wanted,), (awake,) = stream.users.interests(*visit)
        interest = int(stream.catalogue.categories[item] in wanted[awake])
        awakened.add(interest)
        affinity = float(stream.catalogue.vectors[item] @ stream.rotations[surface] @ taste) / 4**0.5
        for column, task in enumerate(stream.dataset.tasks):
            if rows.label_mask[row, column]:
                strength = {"click": 1.0, "long_view": 0.9, "purchase": 1.1}[task]
                logit = stream.base[surface, column] + strength * (3.0 * affinity + 1.5 * interest)
                logit += stream.catalogue.appeal[item, column] - 0.3 * np.log(1 + place)
                assert rows.oracle[row, column] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-4)
    assert awakened == {0, 1}


def test_base_rates_are_near_those_asked_for(made: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = made
    for index, surface in enumerate(SURFACES):
        own = rows.take(rows.surfaces == index)
        for task, rate in surface.base_rates.items():
            assert 0.5 * rate < own.labels[:, stream.dataset.tasks.index(task)].mean() < 1.6 * rate


def test_what_stands_later_in_the_slate_is_clicked_less(many: tuple[SyntheticStream, Rows]) -> None:
    _, rows = many
    clicks = [rows.labels[rows.positions == place, 0].mean() for place in range(8)]
    assert clicks[0] > clicks[1] > clicks[2] > clicks[4] > clicks[7]
    assert clicks[7] < 0.85 * clicks[0]


def test_without_position_bias_the_place_does_not_matter() -> None:
    _, rows = generate(replace(SMALL, hours=2, requests_per_hour=10_000, position_bias=0.0))
    clicks = [rows.labels[rows.positions == place, 0].mean() for place in range(8)]
    assert max(clicks) - min(clicks) < 0.03


# --- its shape


def test_one_seed_gives_one_stream_and_another_seed_another(made: tuple[SyntheticStream, Rows]) -> None:
    _, first = made
    _, again = generate(SMALL)
    _, other = generate(replace(SMALL, seed=1))
    for name in vars(first):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name), err_msg=name)
    assert not np.array_equal(first.labels, other.labels)


def test_an_hour_does_not_depend_on_the_hours_made_before(made: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = made
    alone = stream.hour(17)
    again = rows.take(slice(17 * 480, 18 * 480))
    for name in vars(alone):
        np.testing.assert_array_equal(getattr(alone, name), getattr(again, name), err_msg=name)


def test_every_hour_brings_other_visits(made: tuple[SyntheticStream, Rows]) -> None:
    _, rows = made
    first, second = rows.users[:480], rows.users[480:960]
    assert (first == second).mean() < 0.2
    assert not np.array_equal(rows.event_times[:480] + HOUR, rows.event_times[480:960])


def test_rows_keep_the_schemas_promises(made: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = made
    assert len(rows) == 30 * 60 * 8
    assert rows.row_ids.tolist() == list(range(1, len(rows) + 1))
    assert rows.request_ids.tolist() == np.repeat(np.arange(30 * 60) + 1, 8).tolist()
    assert (rows.available_at > rows.event_times[:, None]).all()
    assert (np.diff(rows.event_times) >= 0).all()
    assert (stream.items.index(rows.items) > 0).all()
    slates = rows.items.reshape(-1, 8)
    assert all(len(set(slate)) == 8 for slate in slates.tolist())
    assert (rows.positions.reshape(-1, 8) == np.arange(8)).all()
    per_request = [getattr(rows, name).reshape(-1, 8) for name in ("users", "surfaces", "event_times", "request_ids")]
    assert all((values == values[:, :1]).all() for values in per_request)
    has = np.array([[task in s.base_rates for task in stream.dataset.tasks] for s in SURFACES])
    np.testing.assert_array_equal(rows.label_mask, has[rows.surfaces])
    np.testing.assert_array_equal(np.isfinite(rows.oracle), rows.label_mask)
    assert not rows.labels[~rows.label_mask].any()


def test_an_hour_of_many_requests_is_one_run_of_ids_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CHUNK", 7)
    rows = SyntheticStream(SMALL).hour(2)
    assert rows.row_ids.tolist() == list(range(2 * 480 + 1, 3 * 480 + 1))
    assert rows.request_ids.tolist() == np.repeat(np.arange(120, 180) + 1, 8).tolist()
    assert (np.diff(rows.event_times) >= 0).all()


def test_half_the_slots_show_the_users_interests(many: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = many
    wanted, _ = stream.users.interests(rows.users - 1, rows.surfaces, rows.event_times)
    category = stream.catalogue.categories[np.searchsorted(stream.items.ids, rows.items)]
    assert (category[:, None] == wanted).any(1).mean() == pytest.approx(0.5 + 0.5 * 4 / 24, abs=0.02)


def test_items_of_a_category_are_alike_and_popular_ones_are_shown_more(many: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = many
    vectors, categories = stream.catalogue.vectors, stream.catalogue.categories
    centres = np.stack([vectors[categories == c].mean(0) for c in range(24)])
    assert (vectors - centres[categories]).var() == pytest.approx(0.55, abs=0.1)
    assert vectors.var() == pytest.approx(1.0, abs=0.2)
    shown = sorted(Counter(rows.items.tolist()).values(), reverse=True)
    assert sum(shown[:100]) > 0.2 * len(rows)
    assert Counter(np.bincount(categories).tolist()).keys() <= {41, 42}


# --- times


def delays(changes: dict[str, Any]) -> dict[str, np.ndarray]:
    """ms until each task's label is known, for those that a surface of its own has."""
    tasks = {name: replace(task, **changes) for name, task in TASKS.items()}
    found = {}
    for name in tasks:
        surfaces = (replace(SURFACES[0], base_rates={name: 0.2}),)
        rows = SyntheticStream(replace(SMALL, hours=1, surfaces=surfaces, tasks=tasks)).hour(0)
        found[name] = rows.available_at[:, 0] - rows.event_times
    return found


def test_a_click_is_known_at_once_a_view_after_a_while_and_a_purchase_after_its_window() -> None:
    found = delays({})
    assert 3000 < np.median(found["click"]) < 8000
    assert 40_000 < np.median(found["long_view"]) < 90_000
    assert found["purchase"].min() > 1_800_000


def test_yes_and_no_take_equally_long(many: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = many
    own = rows.take(rows.label_mask[:, stream.dataset.tasks.index("purchase")])
    bought = own.labels[:, stream.dataset.tasks.index("purchase")] > 0
    purchase = stream.dataset.tasks.index("purchase")
    wait = (own.available_at[:, purchase] - own.event_times).astype(float)
    assert np.median(wait[bought]) == pytest.approx(np.median(wait[~bought]), rel=0.01)


def test_a_click_does_not_wait_for_the_purchase_and_what_a_row_lacks_is_known_with_its_last_label() -> None:
    stream = SyntheticStream(SMALL)
    rows = stream.hour(0)
    wait = rows.available_at - rows.event_times[:, None]
    ads, (click, view, purchase) = rows.surfaces == 2, wait.T
    assert stream.dataset.tasks == ("click", "long_view", "purchase")
    assert np.median(click[ads]) < 10_000
    assert purchase[ads].min() > 1_800_000
    assert (view[ads] == purchase[ads]).all()
    assert (purchase[~ads] == np.maximum(click, view)[~ads]).all()


def test_a_label_without_any_delay_is_known_a_millisecond_after_its_event() -> None:
    for wait in delays({"delay_seconds": 0.0, "window_seconds": 0.0}).values():
        assert set(wait.tolist()) == {1}


def test_no_label_takes_longer_than_its_window_and_a_day() -> None:
    for name, wait in delays({"delay_seconds": 1e7}).items():
        assert wait.max() == TASKS[name].window_seconds * 1000 + 24 * HOUR + 1


# --- births and deaths


def test_no_item_is_shown_before_its_birth_or_after_its_death() -> None:
    stream = SyntheticStream(replace(SMALL, born_later=0.4, dying=0.4, hours=12))
    born, dies = stream.catalogue.born, stream.catalogue.dies
    assert len(set(born.tolist())) > 3
    assert len(set(dies.tolist())) > 3
    for hour, (_, rows) in enumerate(stream.segments()):
        items = np.searchsorted(stream.items.ids, rows.items)
        assert (born[items] <= hour).all()
        assert (dies[items] > hour).all()


def test_no_user_visits_before_arriving_or_after_leaving() -> None:
    stream = SyntheticStream(replace(SMALL, arriving=0.4, leaving=0.4, hours=12))
    arrives, leaves = stream.users.arrives, stream.users.leaves
    for hour, (_, rows) in enumerate(stream.segments()):
        assert (arrives[rows.users - 1] <= hour).all()
        assert (leaves[rows.users - 1] > hour).all()


def test_the_shares_that_come_and_go_are_those_asked_for() -> None:
    stream = SyntheticStream(replace(SMALL, users=100, born_later=0.3, dying=0.2, arriving=0.25, leaving=0.15))
    assert (stream.catalogue.born > 0).sum() == 60
    assert (stream.catalogue.dies < 30).sum() == 40
    assert (stream.users.arrives > 0).sum() == 25
    assert (stream.users.leaves < 30).sum() == 15


def test_new_items_are_shown_and_old_ones_vanish(made: tuple[SyntheticStream, Rows]) -> None:
    _, rows = made
    hour = (rows.event_times - SMALL.start_ms) // HOUR
    first, last = (set(rows.items[(hour >= a) & (hour < b)].tolist()) for a, b in ((0, 10), (20, 30)))
    assert last - first
    assert first - last


# --- what users want


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_taste_is_a_function_of_user_and_time_that_turns_slowly_and_keeps_its_size() -> None:
    users = SyntheticStream(replace(SMALL, users=4000)).users
    everyone, reels = np.arange(4000), np.zeros(4000, np.int64)

    def at(hours: float) -> np.ndarray:
        return users.taste(everyone, reels, np.full(4000, int(SMALL.start_ms + hours * HOUR)))

    now = at(0)
    np.testing.assert_array_equal(now, at(0))
    for hours in (0, 60, 120, 500):
        assert at(hours).var() == pytest.approx(1.0, abs=0.05)
    likeness = [cosine(now, at(hours)) for hours in (1, 24, 120, 480, 1000)]
    assert likeness[0] > 0.999
    assert likeness == sorted(likeness, reverse=True) or abs(likeness[-1] - likeness[-2]) < 0.05
    assert likeness[1] > 0.9
    assert abs(likeness[3]) < 0.05


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 1.0])
def test_surfaces_share_taste_and_interests_in_proportion_to_rho(rho: float) -> None:
    users = SyntheticStream(replace(SMALL, users=4000, categories=64, rho=rho)).users
    everyone, times = np.arange(4000), np.full(4000, SMALL.start_ms)
    reels, ads = (users.taste(everyone, np.full(4000, surface), times) for surface in (0, 2))
    assert cosine(reels, ads) == pytest.approx(rho, abs=0.03)
    (c0, a0), (c2, a2) = (users.interests(everyone, np.full(4000, surface), times) for surface in (0, 2))
    assert ((c0 == c2) & (a0 == a2)).mean() == pytest.approx(rho + (1 - rho) / 128, abs=0.03)


def test_an_interest_sleeps_half_of_its_cycle_and_comes_back_to_the_same_category() -> None:
    users = SyntheticStream(SMALL).users
    hours = np.arange(0, 480) * HOUR // 2 + SMALL.start_ms
    for user in range(5):
        wanted, awake = users.interests(np.full(480, user), np.zeros(480, np.int64), hours)
        assert (wanted == wanted[0]).all()
        for each in awake.T:
            begins = np.flatnonzero(each[1:] & ~each[:-1])
            assert 0.4 < each.mean() < 0.6
            assert len(begins) >= 4
            cycles = np.diff(begins) / 2
            assert cycles.max() - cycles.min() <= 0.5
            assert 11.5 <= cycles.mean() <= 48.5


def test_hashed_numbers_are_uniform_and_nearly_normal_and_differ_by_key() -> None:
    keys = mix(3, np.arange(50_000))
    assert len(set(keys.tolist())) == 50_000
    level = uniform(keys)
    assert level.mean() == pytest.approx(0.5, abs=0.01)
    assert level.var() == pytest.approx(1 / 12, abs=0.002)
    draws = normal(keys, 3)
    assert draws.shape == (50_000, 3)
    assert draws.mean() == pytest.approx(0.0, abs=0.02)
    assert draws.var() == pytest.approx(1.0, abs=0.02)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.02
    assert mix(1, 2)[0] != mix(2, 1)[0]


# --- its cost


def peak_of_an_hour(**changes: int) -> tuple[int, int]:
    """Bytes that making an hour takes at its worst, in a world that is there already; and those of its rows."""
    stream = SyntheticStream(replace(SMALL, **changes))
    stream.hour(0)
    tracemalloc.start()
    try:
        rows = stream.hour(1)
        return tracemalloc.get_traced_memory()[1], sum(values.nbytes for values in vars(rows).values())
    finally:
        tracemalloc.stop()


def test_an_hour_takes_no_more_memory_in_a_world_of_a_million_users_and_items() -> None:
    small, _ = peak_of_an_hour(users=1000, items=1000, requests_per_hour=500)
    large, _ = peak_of_an_hour(users=1_000_000, items=1_000_000, requests_per_hour=500)
    assert large < 1.3 * small
    assert large < 4 << 20


def test_a_longer_hour_takes_memory_for_its_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "CHUNK", 500)
    (short, its_rows), (long, more_rows) = (peak_of_an_hour(requests_per_hour=count) for count in (1000, 8000))
    assert long - short < 2.2 * (more_rows - its_rows)  # in chunks, then joined


@pytest.mark.parametrize(
    "wrong",
    [
        {"rho": 1.5}, {"rho": -0.1}, {"users": 0}, {"items": 23}, {"born_later": 0.5, "dying": 0.45}, {"interests": 0},
        {"arriving": 0.6, "leaving": 0.4}, {"popularity": 1.0}, {"cycle_hours": 0.0}, {"tasks": {}},
    ],
)  # fmt: skip
def test_a_senseless_size_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(SMALL, **wrong)
