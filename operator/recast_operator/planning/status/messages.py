"""The sentences people read, in one place: what, where, how much, and what now."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from recast_api.resources import InputFailure, LineageStatus, MetricResult, RevisionStatus, Verdict
from recast_operator.planning.fleet.pilots import HeldPilot


def pair(revision: RevisionStatus) -> str:
    """``v2@fm2``: expert version and foundation version."""
    return f"v{revision.version}@fm{revision.foundation.version}"


def foundation_not_found(name: str, namespace: str, known: Sequence[str]) -> str:
    """With the likeliest slip of the pen."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f'; did you mean "{close[0]}"?' if close else "; create it or correct spec.foundationRef.name."
    return f'"{name}" is not in namespace {namespace}{hint} Serving is unchanged.'


def foundation_unreadable(name: str) -> str:
    """The foundation is there, in words of another release."""
    return (
        f'FoundationModel "{name}" exists, and this operator cannot read it; its log has the field. Run an operator of '
        "the release that wrote it, or correct it. Serving is unchanged, and nothing is trained until then"
    )


def foundation_not_ready(name: str) -> str:
    """No version of the foundation may be read yet."""
    return f"{name} has no version that serves yet; the first training begins when it has"


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


def rolled_back(model: str, failed: RevisionStatus, weight: int, why: str, stable: RevisionStatus | None) -> str:
    """What happened to a canary, who serves now, and what to do."""
    serves = f"Stable {pair(stable)} serves 100%." if stable else "Nothing else serves yet."
    return (
        f"{model} {pair(failed)} rolled back at {weight}%: {why}. {serves} "
        f'It will not be tried again; land a new version, change spec.serving, or request "Retry" of {failed.revision}.'
    )


def worst(results: Sequence[MetricResult]) -> str:
    """The failing measurements, or else those that hold a step back."""
    failing = [entry.message for entry in results if entry.verdict is Verdict.FAILURE]
    waiting = [entry.message for entry in results if entry.verdict is not Verdict.SUCCESS]
    return "; ".join(failing or waiting)


def failure_text(results: Sequence[MetricResult]) -> str:
    """``error-rate 0.197 > 0.010 (312 requests)`` for each metric that failed."""
    texts = [entry for entry in results if entry.verdict is Verdict.FAILURE]
    return "; ".join(entry.message for entry in texts)


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
