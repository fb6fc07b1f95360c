"""The last guard against label leaks: a check of the claim, whatever the mechanism that was to keep it.

Where a data set carries the true probability of its labels, nothing that has not seen the labels can predict them
better: the expected log loss of the truth is the least there is (Gibbs' inequality). A model that beats it has read an
answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recast_api.run import RecastError
from recast_trainer.evaluation.measure import ScoredRows
from recast_trainer.evaluation.metrics import Floats, Ints, log_loss

SIGMAS = 4.0
"""How far below the truth's a loss must lie: by chance once in 30,000 checks."""
MIN_USERS = 20
"""With fewer the sum over users is not yet normal."""


def sigmas_below_truth(users: Ints, logits: Floats, truth: NDArray[np.float32], labels: Floats) -> float:
    """By how many standard errors the log loss of ``logits`` (R,) lies below that of the probabilities ``truth`` (R,).

    The errors are those of the sum over users, whose rows are not independent. 0 where users are too few to tell.
    """
    unique, owner = np.unique(users, return_inverse=True)
    if len(unique) < MIN_USERS:
        return 0.0
    known = np.clip(truth.astype(np.float64), 1e-7, 1 - 1e-7)
    excess = log_loss(np.log(known) - np.log1p(-known), labels) - log_loss(logits, labels)
    by_user = np.bincount(owner, weights=excess, minlength=len(unique))
    error = float(np.sqrt((by_user**2).sum()))  # around 0, which is the most that is claimed
    return float(by_user.sum()) / error if error > 0 else 0.0


def require_no_leak(scored: ScoredRows, tasks: Sequence[str]) -> None:
    """Raise ``LabelLeak`` where a task of the scored rows is predicted better than by its true probability.

    Rows whose truth is not known (NaN) are left out, so nothing is checked where a data set has none.
    """
    for column, task in enumerate(tasks):
        logits, p = scored.logits[:, column], scored.truth[:, column]
        keep = scored.mask[:, column] & np.isfinite(p) & np.isfinite(logits)
        found = sigmas_below_truth(scored.users[keep], logits[keep], p[keep], scored.labels[keep, column])
        if found > SIGMAS:
            raise RecastError(
                "LabelLeak",
                f"{task} is predicted better than by its true probability p_{task} in the data, by {found:.0f} "
                "standard errors: the model has seen labels that it was to predict. Check that available_at is when "
                f"each label was known, and that p_{task} is the probability of the label; then train again",
            )
