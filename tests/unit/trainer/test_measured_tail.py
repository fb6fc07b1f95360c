"""Whether the step through the tail may serve, and what weights that stand still lose on it: the rules alone."""

from __future__ import annotations

import numpy as np
import pytest

from recast_api.resources.version import Aggregate
from recast_trainer.evaluation.burnin import similarity
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.evaluation.tail import describe_gap, moving_gap, refusal

ROWS, USERS = 4000, 200


def scored(logits: np.ndarray, labels: np.ndarray) -> ScoredRows:
    rows = np.arange(ROWS)
    return ScoredRows(
        row_ids=rows, users=rows % USERS, surfaces=rows % 2, available_at=rows, labels=labels[:, None],
        mask=np.ones((ROWS, 1), np.bool_), logits=logits[:, None], truth=np.full((ROWS, 1), np.nan, np.float32),
    )  # fmt: skip


def gap_where_fixed_weights_lose(noise: float) -> Aggregate:
    """The moving weights know the true logit, the fixed ones see it through noise."""
    random = np.random.default_rng(0)
    truth = random.normal(size=ROWS)
    labels = (random.random(ROWS) < 1 / (1 + np.exp(-truth))).astype(np.float64)
    blurred = scored(truth + noise * random.normal(size=ROWS), labels)
    found = moving_gap(blurred, scored(truth, labels), ["a", "b"], ["click"])
    assert found is not None
    return found


def test_the_gap_is_that_of_all_rows_together_with_the_moving_weights_as_its_baseline() -> None:
    gap = gap_where_fixed_weights_lose(0.5)
    assert gap.rows == ROWS
    assert float(gap.ne) > float(gap.baseline_ne or "nan")
    assert float(gap.ne_increase or "nan") == pytest.approx(
        float(gap.ne) / float(gap.baseline_ne or "nan") - 1, abs=1e-4
    )
    assert describe_gap(gap).startswith(f"NE of fixed against moving TAE on the tail: {float(gap.ne):.4f} against ")
    assert describe_gap(None).endswith("nothing to compare")


@pytest.mark.parametrize(
    ("finite", "alike", "says"),
    [(True, 1.0, ""), (True, 0.8, ""), (True, 0.799, "the TAE turned: similarity 0.799"), (False, 1.0, "not finite")],
)
def test_what_learned_the_tail_serves_where_it_is_finite_and_its_embedding_has_not_turned(
    finite: bool, alike: float, says: str
) -> None:
    assert (says in refusal(finite, alike)) if says else refusal(finite, alike) == ""


def test_an_embedding_that_is_not_finite_is_like_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert similarity(rows, rows) == pytest.approx(1.0)
    with np.errstate(invalid="ignore"):
        assert similarity(rows, np.where(rows == rows[3, 2], np.inf, rows)) == 0.0
