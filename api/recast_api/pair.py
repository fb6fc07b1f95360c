"""The pair rule: which version of a foundation may answer an expert. Operator, handshake and hop all ask here."""

from __future__ import annotations

from typing import Protocol


class FoundationVersion(Protocol):
    """A version of a foundation, as a pin names it or as a server says what it serves."""

    @property
    def name(self) -> str:
        """The foundation's name."""
        ...

    @property
    def version(self) -> int:
        """The version's number; numbers of one foundation only grow."""
        ...

    @property
    def lineage(self) -> int:
        """Number of the first version of its lineage."""
        ...

    @property
    def digest(self) -> str:
        """Digest of its artefact."""
        ...


def is_pair(served: FoundationVersion, pin: FoundationVersion) -> bool:
    """Whether what is served may answer an expert that was trained with the pinned version.

    It may where it is that very version, or a later one of its lineage: versions of one lineage continue one another,
    and their numbers say in which order. Two artefacts under one number are no pair.
    """
    if (served.name, served.lineage) != (pin.name, pin.lineage):
        return False
    return served.version > pin.version or (served.version == pin.version and served.digest == pin.digest)
