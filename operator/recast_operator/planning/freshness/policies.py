"""Is an expert's version stale, and why? A chain of named policies over one immutable input; the first violation wins.

*Basis* is the version the question is about: the canary's while one is on trial, else the one waiting to be rolled
out, else the stable one. *Target* is the foundation version the expert should read: the candidate for pilots, the
current one for everybody else. Reading :data:`POLICIES` is reading the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recast_api.resources import FoundationPin


@dataclass(frozen=True)
class Freshness:
    """What the policies look at."""

    model: str
    version: int | None
    """The basis; None: the expert has never had one."""
    foundation: FoundationPin | None
    """The foundation version that the basis was trained with."""
    target: FoundationPin | None
    trained_spec: str
    """The spec's part of the inputs that the basis was trained from; empty where unknown (landed by Git or CI)."""
    wanted_spec: str
    policies: frozenset[str]
    """``spec.refresh.triggers``."""


@dataclass(frozen=True)
class Violation:
    """Why the basis is stale."""

    reason: str
    message: str


Policy = Callable[[Freshness], Violation | None]


def no_version_yet(fresh: Freshness) -> Violation | None:
    """The first version is always trained."""
    if fresh.version is not None:
        return None
    return Violation("NoVersionYet", f"{fresh.model} has no accepted version yet; its first one is to be trained")


def foundation_major(fresh: Freshness) -> Violation | None:
    """A foundation version that starts a new lineage makes what reads the old one stale."""
    if "FoundationMajor" not in fresh.policies or fresh.foundation is None or fresh.target is None:
        return None
    have, want = fresh.foundation, fresh.target
    if (have.name, have.lineage) == (want.name, want.lineage):
        return None
    return Violation(
        "FoundationMajor",
        f"v{fresh.version} reads {have.name} v{have.version}; {want.name} v{want.version} starts a new lineage",
    )


def training_spec_changed(fresh: Freshness) -> Violation | None:
    """The spec asks for other training than the basis had."""
    if "SpecChange" not in fresh.policies or not fresh.trained_spec or fresh.trained_spec == fresh.wanted_spec:
        return None
    return Violation("TrainingSpecChanged", f"v{fresh.version} was trained from another spec than the present one")


POLICIES: tuple[Policy, ...] = (no_version_yet, foundation_major, training_spec_changed)


def evaluate(fresh: Freshness) -> Violation | None:
    """The first violation, or None while the basis is fresh."""
    return next((violation for policy in POLICIES if (violation := policy(fresh)) is not None), None)
