"""What is reconciled: one model, named by kind, namespace and name."""

from __future__ import annotations

from typing import NamedTuple

from recast_api.names import Kind


class Key(NamedTuple):
    """One FoundationModel or ExpertModel."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"
