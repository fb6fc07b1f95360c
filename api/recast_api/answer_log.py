"""The log of answers: how its files are named, what says that one is whole, and how its rows find those of a data set.

::

    <folder>/<writer>/answers-000001.parquet     rows, in order of time
    <folder>/<writer>/answers-000001.json        its manifest: written last, and only with it does the segment exist
    <folder>/<writer>/.answers-000002.arrows     the journal of the next one: an Arrow IPC stream, still written

A writer is one life of one pod, so no two ever write the same file. What is in the files: ``docs/data.md``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from recast_api.base import Wire

ANSWERS: Literal["answers"] = "answers"
IMPRESSIONS: Literal["impressions"] = "impressions"
TABLES = (ANSWERS, IMPRESSIONS)
WRITER_KEY = b"recast.writer"
"""Key of a schema's metadata; its value is a :class:`Writer` as JSON."""
NOT_PRESENTED = -1
"""The position of a candidate that was scored and not returned."""
_NAME = re.compile(r"\.?(answers|impressions)-([0-9]{6})\.(parquet|json|arrows)", re.ASCII)
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_INT64 = 2**63 - 1


class Writer(Wire):
    """Who wrote a segment: all of its rows are of this version."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
    model: str
    revision: str
    version: int
    digest: str
    surface: str
    tasks: list[str]
    """The columns of ``probabilities``."""
    share: str
    """Share of the candidates that were not returned, of which each is logged with this probability."""


class SegmentManifest(Wire):
    """What is in a segment, and the proof that it is all there."""

    format: Literal[1] = 1
    table: Literal["answers", "impressions"]
    number: int
    writer: Writer
    file: str
    bytes: int
    sha256: str
    rows: int
    records: int
    """Answers, or reports of impressions; each has one or more rows."""
    min_time: int
    """ms; of the rows' ``time``."""
    max_time: int
    foundations: list[str]
    """Digests of the foundation versions whose embeddings are in it."""
    lost_bytes: int = 0
    """At the end of the journal that it was made from, which a crash cut off."""


@dataclass(frozen=True, order=True)
class SegmentName:
    """The names of one segment's files in its writer's folder."""

    table: str
    number: int

    @property
    def journal(self) -> str:
        """While it is written; readers of folders pass over a name that begins with a dot."""
        return f".{self._stem}.arrows"

    @property
    def rows(self) -> str:
        """The Parquet file."""
        return f"{self._stem}.parquet"

    @property
    def manifest(self) -> str:
        """The file that is written last."""
        return f"{self._stem}.json"

    @property
    def _stem(self) -> str:
        return f"{self.table}-{self.number:06d}"

    @classmethod
    def of(cls, file: str) -> SegmentName | None:
        """The segment that a file belongs to by its name; None for a file of something else."""
        found = _NAME.fullmatch(file)
        return cls(found[1], int(found[2])) if found else None


def request_number(request_id: str) -> int:
    """The ``request_id`` of a data set's rows for a request that had this text as its id, from 0 to 2^63 - 1.

    A number in decimal is itself. Of anything else it is the first 63 bits of the SHA-256 of its UTF-8.
    """
    if _DECIMAL.fullmatch(request_id) and (number := int(request_id)) <= _INT64:
        return number
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8]) >> 1
