"""The sentences people read, in one place: what, where, how much, and what now."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from recast_api import names
from recast_api.resources import InputFailure, LineageStatus, MetricResult, RetiringRevision, RevisionStatus, Verdict
from recast_operator.planning.fleet.pilots import HeldPilot

SUSPENDED = "spec.suspend is set: no training begins until it is unset"


def pair(revision: RevisionStatus | RetiringRevision, foundation: str) -> str:
    """Expert and foundation version, and the foundation's name where that is not ``foundation``."""
    return names.pair(revision.version, revision.foundation.name, revision.foundation.version, foundation)


def beside(revision: RevisionStatus | RetiringRevision, other: RevisionStatus | None, foundation: str) -> str:
    """:func:`pair`, and the revision too where the two differ in ``spec.serving`` alone."""
    name = pair(revision, foundation)
    return f"{name} ({revision.revision})" if other is not None and pair(other, foundation) == name else name


def foundation_not_found(name: str, namespace: str, known: Sequence[str]) -> str:
    """With the likeliest slip of the pen."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f'did you mean "{close[0]}"?' if close else "create it or correct the name."
    return f'spec.foundationRef.name "{name}" is not in namespace {namespace}; {hint} Serving is unchanged.'


def foundation_unreadable(name: str) -> str:
    """The foundation is there, in words of another release."""
    return (
        f'FoundationModel "{name}" exists, and this operator cannot read it; its log has the field. Run an operator of '
        "the release that wrote it, or correct it. Serving is unchanged, and nothing is trained until then"
    )


def foundation_not_ready(name: str, suspended: bool) -> str:
    """No version of the foundation may be read yet."""
    too = f", and {SUSPENDED}" if suspended else ""
    return f"{name} has no version that serves yet; the first training begins when it has{too}"


def run_failed(failure: InputFailure) -> str:
    """What a failed run leaves to do."""
    return (
        f"run {failure.number} failed: {failure.message}. "
        "The same inputs are not trained again: change spec.training or spec.data"
    )


def version_rejected(number: int, why: str, trained: bool) -> str:
    """What a rejected version leaves to do."""
    again = ". The same inputs are not trained again: change spec.training or spec.data" if trained else ""
    return f"v{number} is rejected: {why}{again}"


def versions_unreadable(names: Sequence[str]) -> str:
    """Why a model trains nothing."""
    return (
        f"this operator cannot read the ModelVersion {join(names)}, which may be what the spec asks for: nothing is "
        "trained. Its log has the field; run an operator of the release that wrote it, or correct or delete the version"
    )


def experts_unreadable(names: Sequence[str]) -> str:
    """Why a foundation moves nothing."""
    return (
        f"this operator cannot read the ExpertModel {join(names)}, so nobody knows which versions are read: nothing is "
        "promoted or retired. Its log has the field; run an operator of the release that wrote it, or correct or "
        "delete the expert"
    )


def pilots_held(candidate: int, held: Sequence[HeldPilot]) -> str:
    """Which pilots a candidate would wait for in vain, and what to do."""
    text = "; ".join(f"{pilot.name} {pilot.why}" for pilot in held[:5])
    more = f"; {len(held) - 5} more" if len(held) > 5 else ""
    return f"v{candidate} waits for its pilots: {text}{more}, or take the pilot out of spec.fleet.pilots"


def too_many_lineages(version: int, lineages: Sequence[LineageStatus]) -> str:
    """Why an accepted version does not become the candidate."""
    oldest = min(lineages, key=lambda entry: entry.lineage)
    return (
        f"v{version} waits: {len(lineages)} lineages have servers, the most there may be. {join(oldest.pinned_by)} "
        f"keep the oldest, v{oldest.version}: let them refresh, or delete them"
    )


def waiting_for_slot(why: str, slots: int) -> str:
    """What a stale expert waits for. Who holds the slots stands on the foundation: it changes with every grant."""
    return f"{why}; waits for one of {slots} refresh slots"


def rolled_back(model: str, failed: str, weight: int, why: str, stable: str, revision: str) -> str:
    """What happened to a canary, who takes over, and what to do. Who serves how much changes, and is :func:`serves`."""
    takes_over = f"Traffic goes back to stable {stable}." if stable else "Nothing else serves yet."
    return (
        f"{model} {failed} rolled back at {weight}%: {why}. {takes_over} "
        f'It will not be tried again; land a new version, change spec.serving, or request "Retry" of {revision}.'
    )


def serves(stable: str, ready: int, replicas: int, shares: Mapping[str, int]) -> str:
    """Who has the traffic now. ``shares``: percent by name, of all that have ready pods."""
    others = [f"{name} has {share}%" for name, share in shares.items() if name != stable]
    pods = f" with {ready} of {replicas} pods ready" if ready < replicas else ""
    own = f"{stable} serves {shares.get(stable, 0)}%{pods}" if ready else f"no pod of {stable} is ready"
    return f"{own}, and {join(others)} until more are" if others else own


def held_back(name: str, why: str) -> str:
    """Why something newer is not rolled out."""
    return f"{name} is held back: {why}"


def unanswered(since: str) -> str:
    """Nobody can judge the canary, and nobody holds that against it."""
    return f"Prometheus has not answered since {since}: the step waits, and the progress deadline stands still"


def stable_down(stable: str) -> str:
    """Why a canary is treated as the way out."""
    return (
        f"no pod of stable {stable} is ready: this revision gets all the pods it can, is not compared with stable, "
        "and is not rolled back for being late"
    )


def worst(results: Sequence[MetricResult]) -> str:
    """The failing measurements, or else those that hold a step back; what is the same of several is said once."""
    failing = [entry for entry in results if entry.verdict is Verdict.FAILURE]
    waiting = [entry for entry in results if entry.verdict is not Verdict.SUCCESS]
    metrics: dict[str, list[str]] = {}
    for entry in failing or waiting:
        name, _, rest = entry.message.partition(": ")
        shared = name == entry.metric.value
        metrics.setdefault(f": {rest}" if shared else entry.message, []).extend([name] if shared else [])
    return "; ".join(f"{join(names)}{text}" if names else text for text, names in metrics.items())


def pods_missing(name: str, ready: int, wanted: int) -> str:
    """How many pods a revision lacks."""
    return f"{name}: {ready} of {wanted} pods ready"


def merged_steps(weights: Sequence[int], weight: int, replicas: int) -> str:
    """Why fewer steps run than were written."""
    asked = ", ".join(f"{entry}%" for entry in weights)
    return f"steps {asked} are one: {replicas} replicas can express {weight}%"


def approximated(asked: int, weight: int, replicas: int) -> str:
    """Why the weight is not the one written."""
    return f"{asked}% asked, {weight}% is what {replicas} replicas can express"


def pinned(model: str, names: Sequence[str]) -> str:
    """Who keeps a foundation from being deleted."""
    read = "reads" if len(names) == 1 else "read"
    return f"{model} is being deleted, but {join(names)} {read} it; delete or re-point them first"


def join(names: Sequence[str], limit: int = 5) -> str:
    """``a, b and c``, cut to ``limit`` names."""
    shown = [*names[:limit], *([f"{len(names) - limit} more"] if len(names) > limit else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "nobody"
