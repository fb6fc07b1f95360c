"""Is a canary's share of bad requests beyond its limit? Answers that hold however often one looks.

A canary is judged every few seconds until the answer is clear. A test made for one look, asked a hundred times, is
wrong far more often than it says; these are sequential tests, whose error bounds hold over all looks at once. Both
bounds follow from Ville's inequality: where a hypothesis is true, the evidence against it, a nonnegative
supermartingale that begins at 1, ever reaches ``1 / doubt`` with probability ``doubt`` at most. The test reads nothing
but the counts since the weight took effect, so that it needs no memory between two looks.

*A share against a limit*: Wald's sequential probability ratio test (Wald, Sequential Tests of Statistical Hypotheses,
Ann. Math. Stat. 16, 1945) of "at the limit" against "unacceptable", which is twice the limit. No test with these error
bounds needs fewer requests on average at these two shares (Wald and Wolfowitz, 1948). In between lies the region in
which either answer is right.

*A share against another revision's*: that revision's share is not known. It is put at the edge of its confidence
sequence that speaks for doubt, and the same test is asked against that; each of the two gets half of the doubt. The
sequence is Robbins' method of mixtures with a Beta(1/2, 1/2) prior (Robbins, Ann. Math. Stat. 41, 1970; Howard, Ramdas,
McAuliffe and Sekhon, Ann. Stat. 49, 2021).

Each answer costs a bounded number of operations, whatever the counts.
"""

from __future__ import annotations

import math
from typing import Literal

Answer = Literal["worse", "good", "open"]
"""worse: above its limit. good: below what is unacceptable. open: not enough requests to tell, either may be so."""

MARGIN_OF_ZERO = 0.01
"""Twice a limit of 0 is 0, and no number of requests shows that none will ever fail: 1 % is what must be ruled out."""
BISECTIONS = 50


def unacceptable(limit: float, margin: float) -> float:
    """The share that must not be promoted: a margin above the limit, at most half of the way from there to all."""
    return min(limit + margin, (1.0 + limit) / 2)


def margin(limit: float) -> float:
    """How far above a limit the unacceptable begins: as far as the limit is above none."""
    return limit if limit > 0 else MARGIN_OF_ZERO


def judge_share(bad: float, total: float, limit: float, *, false_worse: float, false_good: float) -> Answer:
    """A share of requests against a limit.

    ``false_worse`` bounds how often a share at or below the limit is ever called worse, ``false_good`` how often one at
    or above :func:`unacceptable` is ever called good.
    """
    found = _evidence(bad, total, limit, margin(limit))
    if found >= math.log(1 / false_worse):
        return "worse"
    return "good" if limit >= 1 or -found >= math.log(1 / false_good) else "open"


def judge_difference(
    bad: float,
    total: float,
    other_bad: float,
    other_total: float,
    limit: float,
    *,
    false_worse: float,
    false_good: float,
) -> Answer:
    """A share of requests against another revision's at the same time, from which it may differ by ``limit``."""
    most = upper_share(other_bad, other_total, false_worse / 2)
    if _evidence(bad, total, most + limit, margin(limit)) >= math.log(2 / false_worse):
        return "worse"
    least = lower_share(other_bad, other_total, false_good / 2)
    if least + limit >= 1:
        return "good"
    return "good" if -_evidence(bad, total, least + limit, margin(limit)) >= math.log(2 / false_good) else "open"


def requests_needed(limit: float, false_good: float) -> int:
    """Requests after which a share without a single bad one is called good; fewer never are. About 3 / limit at 5 %.

    Against another revision it takes as many with half of the doubt.
    """
    if limit >= 1:
        return 1
    return math.ceil(math.log(1 / false_good) / -_evidence(0, 1, limit, margin(limit)) - 1e-9)


def upper_share(bad: float, total: float, doubt: float) -> float:
    """What a share is ever found above with probability ``doubt`` at most, however often one looks."""
    return 1.0 if bad >= total else _edge(bad, total, doubt, bad / total, 1.0)


def lower_share(bad: float, total: float, doubt: float) -> float:
    """What a share is ever found below with probability ``doubt`` at most, however often one looks."""
    return 0.0 if bad <= 0 else _edge(bad, total, doubt, bad / total, 0.0)


def _evidence(bad: float, total: float, limit: float, beyond: float) -> float:
    """Logarithm of the likelihood ratio of the unacceptable share to the limit: positive speaks against the canary.

    It falls as the limit rises: that is what lets an edge stand for the unknown share of another revision.
    """
    worse = unacceptable(limit, beyond)
    if worse >= 1:  # a limit of all, or so near to it that no share fits in between
        return 0.0
    if limit <= 0:
        return math.inf if bad > 0 else total * math.log1p(-worse)
    return bad * (math.log(worse) - math.log(limit)) + (total - bad) * (math.log1p(-worse) - math.log1p(-limit))


def _edge(bad: float, total: float, doubt: float, inside: float, outside: float) -> float:
    """Where the evidence against a share reaches ``1 / doubt``, between the share seen and the end of the scale."""
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        if _against(middle, bad, total) < math.log(1 / doubt):
            inside = middle
        else:
            outside = middle
    return outside


def _against(share: float, bad: float, total: float) -> float:
    """Logarithm of the likelihood under Beta(1/2, 1/2) over that under ``share``, which lies strictly in (0, 1)."""
    good = total - bad
    mixture = math.lgamma(bad + 0.5) + math.lgamma(good + 0.5) - math.lgamma(total + 1) - math.log(math.pi)
    return mixture - bad * math.log(share) - good * math.log1p(-share)
