"""Where a live child differs from what was applied, in words.

The applied object is looked for *inside* the live one, as server-side apply merges them: every key that we set must be
there; lists of named objects are matched by their merge key; other lists, and selectors, are one value. What others add
beside our fields is not drift: restart annotations, injected sidecars, defaults of the apiserver. Nothing here knows
how this operator would render the child today, so that an upgrade finds no drift anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from recast_operator.children.labels import Object

SHOWN_CHARACTERS = 80
"""How much of a value a sentence shows: the configuration of a server is one long string."""

_MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ownerReferences": "uid",
}
"""Lists that server-side apply merges by a key of their items; ``ports`` have two (:func:`_merge_key`)."""
_NOUNS = {
    "containers": "container",
    "env": "environment variable",
    "volumes": "volume",
    "volumeMounts": "mount",
    "ownerReferences": "owner reference",
    "ports": "port",
    "labels": "label",
    "annotations": "annotation",
}
"""What one entry of a list or map is called in a sentence."""
_ATOMIC = (("spec", "selector"), ("spec", "podSelector"))
"""The maps that server-side apply replaces whole: a key that somebody adds selects other pods, or none."""
_QUANTITIES = ("requests", "limits")
_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+)(?:[eE]([+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)")
_DECIMAL_UNITS = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY_UNITS = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_SCALES = {unit: Decimal(1000) ** power for power, unit in enumerate(_DECIMAL_UNITS, -3)} | {
    unit: Decimal(1024) ** power for power, unit in enumerate(_BINARY_UNITS, 1)
}

Path = tuple[str, ...]
"""Field names, merge keys of list items in their places."""


def differences(applied: Object, live: Object) -> tuple[str, ...]:
    """One sentence for each field of ``applied`` that ``live`` does not have as it is; empty where all is well.

    Only ``metadata`` and ``spec`` are compared: the items of a listing carry no kind.
    """
    parts = ("metadata", "spec")
    return tuple(text for part in parts for text in _compare(applied.get(part), live.get(part), (part,)))


def same_quantity(left: Any, right: Any) -> bool:
    """Whether two quantities are the same amount: the apiserver stores ``1000m`` as ``1``."""
    amounts = _amount(left), _amount(right)
    return None not in amounts and amounts[0] == amounts[1]


def _compare(applied: Any, live: Any, path: Path) -> Iterator[str]:
    if live is None and _unstored(applied, path):
        return
    if live is None:
        yield f"{_words(path)} was removed"
    elif isinstance(applied, dict) and isinstance(live, dict):
        yield from _maps(applied, live, path)
    elif isinstance(applied, list) and isinstance(live, list) and (path[-1] == "ports" or path[-1] in _MERGE_KEYS):
        yield from _merged_lists(applied, live, path)
    elif not _equal(applied, live, path):
        yield f"{_words(path)} is {_shown(live)}, applied {_shown(applied)}"


def _unstored(applied: Any, path: Path) -> bool:
    """What the apiserver drops: null, empty strings, lists and maps. An ``emptyDir`` says all by being there."""
    return applied is None or (applied in ("", [], {}) and path[-1] != "emptyDir")


def _maps(applied: Object, live: Object, path: Path) -> Iterator[str]:
    for key, value in applied.items():
        yield from _compare(value, live.get(key), (*path, key))
    if path[:2] in _ATOMIC:
        yield from (f"{_words((*path, key))} was added" for key in live if key not in applied)


def _merged_lists(applied: list[Any], live: list[Any], path: Path) -> Iterator[str]:
    there = {_merge_key(path[-1], item): item for item in live}
    for item in applied:
        yield from _compare(item, there.get(_merge_key(path[-1], item)), (*path, _name(path[-1], item)))


def _merge_key(field: str, item: Object) -> tuple[Any, ...]:
    if field == "ports":
        return item.get("containerPort", item.get("port")), item.get("protocol", "TCP")
    return (item.get(_MERGE_KEYS[field]),)


def _name(field: str, item: Object) -> str:
    if field == "ownerReferences":
        return f"{item.get('kind')} {item.get('name')}"
    return str(_merge_key(field, item)[0])


def _equal(applied: Any, live: Any, path: Path) -> bool:
    if len(path) > 1 and path[-2] in _QUANTITIES:
        return same_quantity(applied, live)
    return bool(applied == live) and isinstance(applied, bool) == isinstance(live, bool)


def _amount(value: Any) -> Decimal | None:
    found = _QUANTITY.fullmatch(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if found is None:
        return None
    number, exponent, unit = found.groups()
    return Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _SCALES[unit or ""])


def _words(path: Path) -> str:
    """``container server: image``: the field's path without what every reader knows."""
    pod_metadata = path[:3] == ("spec", "template", "metadata")
    words, plain, noun = ["pod"] if pod_metadata else [], list[str](), ""
    for part in path:
        if noun:
            words += [".".join(plain)] * bool(plain) + [f"{noun} {part}"]
            plain, noun = [], ""
        elif part in _NOUNS:
            noun = _NOUNS[part]
        elif part not in ("metadata", "spec", "template"):
            plain.append(part)
    if noun:
        plain.append(path[-1])
    return ": ".join([*words, ".".join(plain)] if plain else words) or ".".join(path)


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
