"""What was applied, written on the child itself, and what the live child has become since.

The annotation ``recast.dev/last-applied`` holds the object that was applied, without the annotation and without
``replicas`` (those are scaled and put right on their own). :func:`read` compares it with the live object once, when
that enters the operator's memory, and keeps the outcome: a few words for a child that is as it was applied. The object
itself is kept only where there is something to put back.

=============================  ===================================================================================
annotation                     what is done
=============================  ===================================================================================
there, child as applied        nothing
there, child differs           the same object is applied again: no other operator version's rendering comes with it
edited by hand (digest)        the child is rendered anew
absent                         the child of an older operator: taken over where the rendering fits, else left until
                               its next change, so that an upgrade restarts no pod
=============================  ===================================================================================
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from recast_api import names
from recast_operator.children.drift import differences
from recast_operator.children.labels import Object
from recast_operator.children.why import Inputs, inputs

_OURS = ("name", "namespace", "labels", "annotations", "ownerReferences")
"""The part of a child's metadata that an operator sets."""
EDITED = f"annotation {names.ANNOTATION_LAST_APPLIED} was edited"


@dataclass(frozen=True)
class ChildRecord:
    """A live child beside what was applied."""

    recorded: bool = False
    """Whether the child carries a record that an operator wrote for it."""
    template_hash: str = ""
    """Of what was applied; without a record, as the live object's annotation says."""
    drift: tuple[str, ...] = ()
    """What somebody changed, a sentence each."""
    applied: str = ""
    """JSON of what was applied; only where there is drift to put back."""
    unrecorded: str = ""
    """JSON of the live metadata and spec; only where the child has no record."""
    inputs: Inputs = ()
    """What the child was made from, in words."""
    applied_at: str = ""
    """When our last apply changed something, by the apiserver's clock."""
    repairs: int = 0
    """How many times in a row it was put back."""
    scaled_by: str = ""
    """The field manager that set ``spec.replicas`` last, where that is not this operator."""
    scaled_at: str = ""


def recorded(body: Object, *, repairs: int = 0) -> Object:
    """The object to apply: ``body`` with its record, and with the count of repairs where it is one."""
    notes = {names.ANNOTATION_LAST_APPLIED: _record(_without_replicas(body), ())}
    if repairs:
        notes[names.ANNOTATION_REPAIRS] = str(repairs)
    return _annotated(body, notes)


def admitted(applied: Object, made: Object) -> Object | None:
    """What to apply once more where admission made something else of ``applied`` (a webhook that rewrites images).

    Its differences go into the record: they are not drift, and putting them back would only bring them again. None
    where the apiserver made what was asked.
    """
    differing = read(made).drift
    if not differing:
        return None
    text = applied["metadata"]["annotations"][names.ANNOTATION_LAST_APPLIED]
    return _annotated(applied, {names.ANNOTATION_LAST_APPLIED: _record(json.loads(text)["object"], differing)})


def read(raw: Object) -> ChildRecord:
    """Compare a live child with its record."""
    annotations = raw["metadata"].get("annotations") or {}
    seen = _seen(raw, annotations)
    text = annotations.get(names.ANNOTATION_LAST_APPLIED)
    if text is not None:
        record = _parsed(text, raw)
        return replace(seen, drift=(EDITED,)) if record is None else _compared(seen, record, raw)
    if not seen.template_hash:
        return seen
    metadata = {key: raw["metadata"].get(key) for key in _OURS}
    return replace(seen, unrecorded=_canonical({"metadata": metadata, "spec": raw.get("spec")}))


def fits(body: Object, record: ChildRecord) -> bool:
    """Whether applying ``body`` would change nothing of a child without a record."""
    return bool(record.unrecorded) and not differences(_without_replicas(body), json.loads(record.unrecorded))


def child_record(raw: Object) -> ChildRecord:
    """The record of a remembered child (:func:`condense`)."""
    known: Object = raw.get("record") or {}
    inputs_ = tuple((str(name), str(value)) for name, value in known.get("inputs", ()))
    return ChildRecord(**{**known, "drift": tuple(known.get("drift", ())), "inputs": inputs_})


def condense(raw: Object) -> Object:
    """What is worth remembering of a live child, as JSON: its ``record`` in the place of its template.

    Labels, owner and hash are those that were applied: a child from which somebody removed them is found, and is ours,
    so that it is put right and not taken for missing or for somebody else's. An owner that controls it now stays.
    """
    record = read(raw)
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    metadata["annotations"] = {names.ANNOTATION_TEMPLATE_HASH: record.template_hash} if record.template_hash else {}
    if record.applied:
        applied = json.loads(record.applied)["metadata"]
        metadata["labels"] = {**(metadata.get("labels") or {}), **applied["labels"]}
        owners = metadata.get("ownerReferences") or []
        if not any(owner.get("controller") for owner in owners):
            metadata["ownerReferences"] = [*owners, *applied["ownerReferences"]]
    spec = {key: value for key, value in (raw.get("spec") or {}).items() if key != "template"}
    kept = {key: value for key, value in asdict(record).items() if value}
    return {**raw, "metadata": metadata, "spec": spec, "record": kept}


def _seen(raw: Object, annotations: Object) -> ChildRecord:
    repairs = annotations.get(names.ANNOTATION_REPAIRS, "")
    scaled_by, scaled_at = _scaled(raw)
    return ChildRecord(
        template_hash=annotations.get(names.ANNOTATION_TEMPLATE_HASH, ""),
        applied_at=_applied_at(raw),
        repairs=int(repairs) if re.fullmatch("[0-9]{1,4}", repairs) else 0,
        scaled_by=scaled_by,
        scaled_at=scaled_at,
    )


def _compared(seen: ChildRecord, record: Object, raw: Object) -> ChildRecord:
    applied = record["object"]
    metadata = applied["metadata"]
    changed = tuple(text for text in differences(applied, raw) if text not in record["admitted"])
    return replace(
        seen,
        recorded=True,
        template_hash=metadata["annotations"][names.ANNOTATION_TEMPLATE_HASH],
        drift=changed,
        applied=_canonical(applied) if changed else "",
        inputs=inputs(applied),
    )


def _without_replicas(body: Object) -> Object:
    return {**body, "spec": {key: value for key, value in body["spec"].items() if key != "replicas"}}


def _annotated(body: Object, notes: dict[str, str]) -> Object:
    metadata = body["metadata"]
    return {**body, "metadata": {**metadata, "annotations": {**metadata["annotations"], **notes}}}


def _record(applied: Object, differing: tuple[str, ...]) -> str:
    content = {"admitted": list(differing), "object": applied}
    return _canonical({**content, "digest": _digest(content)})


def _parsed(text: str, raw: Object) -> Object | None:
    """The record's content; None where it was not written by an operator for this very object."""
    try:
        found = json.loads(text)
        content = {key: found[key] for key in ("admitted", "object")}
        metadata = content["object"]["metadata"]
        ours = all(metadata[key] == raw["metadata"][key] for key in ("name", "namespace"))
        return content if ours and found["digest"] == _digest(content) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _applied_at(raw: Object) -> str:
    entries = (entry for entry in _managed(raw) if entry.get("operation") == "Apply")
    return next((entry.get("time", "") for entry in entries if entry.get("manager") == names.FIELD_MANAGER), "")


def _scaled(raw: Object) -> tuple[str, str]:
    for entry in _managed(raw):
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        if "f:replicas" in fields and entry.get("manager") != names.FIELD_MANAGER:
            return entry.get("manager", ""), entry.get("time", "")
    return "", ""


def _managed(raw: Object) -> Iterator[Object]:
    yield from raw["metadata"].get("managedFields") or []


def _canonical(value: Object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _digest(content: Object) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()[:16]
