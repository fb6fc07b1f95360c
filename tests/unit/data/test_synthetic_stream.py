"""The generator: what it promises about its truth, and that one seed means one stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recast_trainer.data.schema import Rows
from recast_trainer.data.synthetic import SURFACES, SyntheticConfig, SyntheticStream

SMALL = SyntheticConfig(users=60, items=200, hours=30, requests_per_hour=60)


def generate(config: SyntheticConfig) -> tuple[SyntheticStream, Rows]:
    stream = SyntheticStream(config)
    return stream, Rows.concatenate([rows for _, rows in stream.segments()])


@pytest.fixture(scope="module")
def made() -> tuple[SyntheticStream, Rows]:
    return generate(SMALL)


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
            assert abs(p.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / len(y)), (name, task)


def test_base_rates_are_near_those_asked_for(made: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = made
    for index, surface in enumerate(SURFACES):
        own = rows.take(rows.surfaces == index)
        for task, rate in surface.base_rates.items():
            assert 0.5 * rate < own.labels[:, stream.dataset.tasks.index(task)].mean() < 1.6 * rate


def test_one_seed_gives_one_stream_and_another_seed_another(made: tuple[SyntheticStream, Rows]) -> None:
    _, first = made
    _, again = generate(SMALL)
    _, other = generate(replace(SMALL, seed=1))
    for name in vars(first):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name), err_msg=name)
    assert not np.array_equal(first.labels, other.labels)


def test_rows_keep_the_schemas_promises(made: tuple[SyntheticStream, Rows]) -> None:
    stream, rows = made
    assert len(rows) == 30 * 60 * 8
    assert rows.row_ids.tolist() == list(range(1, len(rows) + 1))
    assert rows.request_ids.tolist() == np.repeat(np.arange(30 * 60) + 1, 8).tolist()
    assert (rows.available_at > rows.event_times).all()
    assert (np.diff(rows.event_times) >= 0).all()
    assert (stream.items.index(rows.items) > 0).all()
    slates = rows.items.reshape(-1, 8)
    assert all(len(set(slate)) == 8 for slate in slates.tolist())
    per_request = [getattr(rows, name).reshape(-1, 8) for name in ("users", "surfaces", "event_times", "request_ids")]
    assert all((values == values[:, :1]).all() for values in per_request)
    has = np.array([[task in s.base_rates for task in stream.dataset.tasks] for s in SURFACES])
    np.testing.assert_array_equal(rows.label_mask, has[rows.surfaces])
    assert not rows.labels[~rows.label_mask].any()


def test_labels_of_ads_take_longest(made: tuple[SyntheticStream, Rows]) -> None:
    _, rows = made
    delay = rows.available_at - rows.event_times
    medians = [np.median(delay[rows.surfaces == index]) for index in range(3)]
    assert medians[0] < medians[1] < medians[2]


def test_a_label_without_any_delay_is_known_a_millisecond_after_its_event() -> None:
    surfaces = tuple(replace(surface, delay_median_seconds=0.0) for surface in SURFACES)
    (_, rows) = next(SyntheticStream(replace(SMALL, hours=1, surfaces=surfaces)).segments())
    assert set((rows.available_at - rows.event_times).tolist()) == {1}


def test_no_label_takes_longer_than_six_hours() -> None:
    surfaces = tuple(replace(surface, delay_median_seconds=1e6) for surface in SURFACES)
    (_, rows) = next(SyntheticStream(replace(SMALL, hours=1, surfaces=surfaces)).segments())
    assert (rows.available_at - rows.event_times).max() == 6 * 3_600_000 + 1


def test_some_items_are_first_shown_after_the_beginning(made: tuple[SyntheticStream, Rows]) -> None:
    _, rows = made
    first_hour = set(rows.items[: 60 * 8].tolist())
    shown = SyntheticStream(replace(SMALL, born_later=0.0, hours=1))
    assert len(first_hour) < len(set(rows.items.tolist()))
    assert len({int(i) for _, r in shown.segments() for i in r.items}) > 0


@pytest.mark.parametrize(("rho", "unused"), [(1.0, "_private"), (0.0, "_common")])
def test_at_the_ends_of_rho_one_kind_of_taste_alone_decides(rho: float, unused: str) -> None:
    plain, without = (SyntheticStream(replace(SMALL, rho=rho, hours=1)) for _ in range(2))
    setattr(without, unused, np.zeros_like(getattr(without, unused)))
    (_, first), (_, second) = next(plain.segments()), next(without.segments())
    np.testing.assert_array_equal(first.oracle, second.oracle)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_no_item_is_shown_before_it_is_born() -> None:
    stream = SyntheticStream(replace(SMALL, born_later=0.5, hours=6))
    born = dict(zip(stream.items.ids.tolist(), stream._born.tolist(), strict=True))
    for hour, (_, rows) in enumerate(stream.segments()):
        assert all(born[item] <= hour for item in rows.items.tolist())
    assert len(set(born.values())) > 3


def test_the_true_probability_is_the_logistic_of_taste_appeal_and_base() -> None:
    stream = SyntheticStream(replace(SMALL, hours=1))
    common, private = stream._common, stream._private
    (_, rows) = next(stream.segments())
    for row in range(0, len(rows), 37):
        user, surface = int(rows.users[row]) - 1, int(rows.surfaces[row])
        item = int(np.searchsorted(stream.items.ids, rows.items[row]))
        taste = 0.85**0.5 * common[user] + 0.15**0.5 * private[user, surface]
        affinity = float(stream._vectors[item] @ stream._rotations[surface] @ taste) / 4**0.5
        for column, task in enumerate(stream.dataset.tasks):
            if rows.label_mask[row, column]:
                logit = (
                    stream._offsets[surface, column]
                    + 3.0 * affinity * {"click": 1.0, "long_view": 0.9, "purchase": 1.1}[task]
                )
                logit += stream._appeal[item, column]
                assert rows.oracle[row, column] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


def correlation_across_surfaces(rho: float) -> float:
    """How alike one user's mean probabilities by item are on two surfaces, over shared items."""
    stream = SyntheticStream(replace(SMALL, rho=rho, hours=1))
    turned = [stream._vectors @ rotation for rotation in stream._rotations]
    taste = [
        np.sqrt(rho) * stream._common + np.sqrt(1 - rho) * stream._private[:, surface]
        for surface in range(len(SURFACES))
    ]
    a, b = (taste[s] @ turned[s].T for s in (0, 2))
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_surfaces_share_taste_in_proportion_to_rho() -> None:
    none, half, most = (correlation_across_surfaces(rho) for rho in (0.0, 0.5, 0.9))
    assert abs(none) < 0.25
    assert none < half < most
    assert most > 0.5


@pytest.mark.parametrize("wrong", [{"rho": 1.5}, {"users": 0}, {"items": 10}])
def test_a_senseless_size_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(SMALL, **wrong)  # type: ignore[arg-type]
