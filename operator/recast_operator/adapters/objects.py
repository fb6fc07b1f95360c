"""What every object of the apiserver has, whatever its kind: labels and owners. Objects are JSON as it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def labels(raw: Mapping[str, Any]) -> dict[str, str]:
    """An object's labels."""
    found: dict[str, str] = raw["metadata"].get("labels") or {}
    return found


def label_number(raw: Mapping[str, Any], label: str) -> int:
    """The number in a label; 0 where it is absent or holds none."""
    text = labels(raw).get(label, "")
    return int(text) if text.isdigit() else 0


def controller_uid(raw: Mapping[str, Any]) -> str:
    """The UID of the owner that controls an object; empty where none does."""
    owners = raw["metadata"].get("ownerReferences") or []
    uid: str = next((owner["uid"] for owner in owners if owner.get("controller")), "")
    return uid
