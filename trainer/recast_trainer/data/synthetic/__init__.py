"""A generated stream of several surfaces with a known p(y | x), where longer histories and larger models can do more.

The world. An item ``i`` has a category ``c(i)``, a vector ``v(i)`` of ``latent_dim`` d numbers around its category's
centre, and a life ``[born, dies)``. Its content shows the vector but for a hidden share, and its category. A user ``u``
has, on a surface ``s`` and at a time ``t``,

* a taste ``theta(u, s, t) = sqrt(rho) common(u, t) + sqrt(1 - rho) private(u, s, t)``, vectors of d numbers of
  variance 1 that turn slowly, by a right angle every ``drift_hours``: a few events say little of d numbers, hundreds
  say much;
* ``interests`` recurring interests, each in one category: it is awake for a part of its cycle of
  ``cycle_hours / 2`` to ``cycle_hours * 2`` and asleep for the rest. With probability ``rho`` an interest is the same
  on all surfaces, else each surface has another in its place. When one awakes, what tells lies a cycle back.

The label of task ``k`` at place ``j`` of the slate is drawn from

    logit p = base(s, k) + strength(k) * pull(u, s, i, t) + appeal(i, k) - position_bias * ln(1 + j)
    pull    = signal * <R(s) theta(u, s, t), v(i)> / sqrt(d) + interest * awake(u, s, c(i), t)

where ``R(s)`` is the surface's rotation, ``awake`` is 0 or 1, and ``base`` makes the mean of p the surface's base rate.
So p is exact given everything, the position too, and no model can do better: the oracle.

What is shown. Users visit by their activity, between their arrival and their leaving. A slot of a slate is, with
probability ``targeted``, of one of the user's interests, awake or not, and else of any category; within a category
items are drawn by a power law of their rank. Who is away, dead or twice in a slate is drawn again. The place in the
slate is chance, so that position bias can be told from relevance.

When it is known. A label has a delay of its own: ``SyntheticTask.window_seconds``, before which nobody knows that the
answer stays no, and a log-normal part.

Nothing is kept while the stream runs: what a user is at a time is a pure function of seed, user and time
(:mod:`~recast_trainer.data.synthetic.hashing`), and every hour is one of seed and hour. So the same seed gives the same
bytes, and the cost of a row does not grow with the items, and with the users only as a binary search among them does.
"""

from __future__ import annotations

from recast_trainer.data.synthetic.config import SURFACES, TASKS, SyntheticConfig, SyntheticSurface, SyntheticTask
from recast_trainer.data.synthetic.stream import SyntheticStream

__all__ = ["SURFACES", "TASKS", "SyntheticConfig", "SyntheticStream", "SyntheticSurface", "SyntheticTask"]
