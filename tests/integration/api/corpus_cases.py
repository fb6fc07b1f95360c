"""Reads the corpus of objects that pydantic and the apiserver must judge alike."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Case:
    """One object, why it is in the corpus, and what both must say of it."""

    reason: str
    valid: bool
    base: dict[str, Any]
    object: dict[str, Any]
    says: str
    update: bool

    @property
    def kind(self) -> str:
        return str(self.base["kind"])


def _path(target: dict[str, Any], dotted: str) -> tuple[dict[str, Any], str]:
    *parents, last = dotted.split(".")
    for part in parents:
        target = target.setdefault(part, {})
    return target, last


def _case(base: dict[str, Any], entry: dict[str, Any]) -> Case:
    made = copy.deepcopy(base)
    for dotted in entry.get("remove", []):
        parent, key = _path(made, dotted)
        del parent[key]
    for dotted, value in entry.get("set", {}).items():
        parent, key = _path(made, dotted)
        parent[key] = copy.deepcopy(value)
    return Case(entry["reason"], entry["valid"], base, made, entry.get("says", ""), entry.get("update", False))


def cases() -> list[Case]:
    """Every case of every file, in order."""
    found = []
    for path in sorted(CORPUS.glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        found += [_case(document["base"], entry) for entry in document["cases"]]
    return found
