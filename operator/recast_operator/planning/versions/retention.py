"""What is written on the versions of a model: verdicts, who reads them, whether they are retired, and who owns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from recast_api.resources import Condition, ModelVersionStatus
from recast_api.resources.version import VersionSummary
from recast_operator.children.labels import Object
from recast_operator.planning.plan import VersionWrite
from recast_operator.planning.status.conditions import ConditionUpdate, find, merge
from recast_operator.planning.versions.measured import quality
from recast_operator.planning.versions.verdict import ACCEPTED, Judged, events

RETIRED = "Retired"


def writes(
    judged: Sequence[Judged],
    owner: Object,
    now: datetime,
    *,
    used_by: Mapping[int, int] | None = None,
    retired: frozenset[int] = frozenset(),
) -> tuple[VersionWrite, ...]:
    """What must be written on the versions: verdicts, summaries, our owner reference on those of our own runs.

    ``used_by`` is how many read each of a foundation's versions, and None for an expert's.
    """
    planned = (
        _write(entry, owner, None if used_by is None else used_by.get(entry.number, 0), entry.number in retired, now)
        for entry in judged
    )
    return tuple(entry for entry in planned if entry is not None)


def _write(judged: Judged, owner: Object, used_by: int | None, retired: bool, now: datetime) -> VersionWrite | None:
    version = judged.version
    adopt = judged.ours and version.spec.run is not None and not version.metadata.owner_references
    status = _status(judged, used_by, retired, now)
    changed = status != version.status
    if not adopt and not changed:
        return None
    return VersionWrite(
        name=version.metadata.name,
        resource_version=version.metadata.resource_version,
        owner=owner if adopt else None,
        status=status if changed else None,
        events=events([judged]) if changed else (),
    )


def _status(judged: Judged, used_by: int | None, retired: bool, now: datetime) -> ModelVersionStatus:
    version = judged.version
    facts = [ConditionUpdate(ACCEPTED, "True" if judged.accepted else "False", judged.reason, judged.message)]
    if retired:
        facts.append(
            ConditionUpdate(
                RETIRED,
                "True",
                "Superseded",
                "a newer version has taken over and nobody pins this one; its servers are gone",
            )
        )
    measured = quality(version.spec)
    was_retired = find(version.status.conditions, RETIRED) is not None  # and stays so: merge keeps the condition
    state = "Retired" if retired or was_retired else "Accepted" if judged.accepted else "Rejected"
    conditions: list[Condition] = merge(version.status.conditions, facts, version.metadata.generation, now)
    return ModelVersionStatus(
        observed_generation=version.metadata.generation,
        conditions=conditions,
        summary=VersionSummary(state=state, ne=measured.ne_text, change=measured.change_text, used_by=used_by),
    )
