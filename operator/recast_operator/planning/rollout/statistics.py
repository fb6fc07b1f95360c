"""Just enough statistics to say "worse beyond doubt", "good enough" or "cannot tell yet" about shares of requests."""

from __future__ import annotations

import math

Z_95 = 1.6449
"""One-sided 95 % of the normal distribution."""
DOUBT = 0.05


def tail(successes: int, trials: int, p: float) -> float:
    """P(X ≥ successes) for X ~ Binomial(trials, p): exact, summed from the shorter side in log space."""
    if successes <= 0:
        return 1.0
    if p <= 0.0:
        return 0.0
    if p >= 1.0:
        return 1.0
    return min(1.0, max(0.0, 1.0 - math.fsum(_mass(k, trials, p) for k in range(successes))))


def exceeds(bad: int, total: int, limit: float) -> bool:
    """Whether the one-sided 95 % lower bound (Clopper–Pearson) of the share ``bad / total`` lies above ``limit``.

    The bound lies above the limit exactly when so many bad ones would be rarer than 5 % at the limit itself.
    """
    return tail(bad, total, limit) < DOUBT


def difference_low(bad: int, total: int, other_bad: int, other_total: int) -> float:
    """One-sided 95 % lower bound of ``bad/total - other_bad/other_total`` (Agresti and Caffo's adjusted interval)."""
    share, other = (bad + 1) / (total + 2), (other_bad + 1) / (other_total + 2)
    error = math.sqrt(share * (1 - share) / (total + 2) + other * (1 - other) / (other_total + 2))
    return share - other - Z_95 * error


def samples_for(limit: float) -> int:
    """Requests needed before "none bad" says anything about ``limit``: the rule of three, 3 / limit.

    At n = 3 / limit, seeing none is a 5 % accident where the true share is the limit. A limit of 0 asks for 300.
    """
    return math.ceil(3.0 / limit - 1e-9) if limit > 0 else 300


def _mass(k: int, n: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    return math.exp(log)
