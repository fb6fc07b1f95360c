"""The data of a run, listed once: every process and every attempt of the run reads the same files.

A segment that arrives later belongs to the next run. A file that was removed or rewritten since cannot be learned as it
was: the run starts over, and says so, from the data as they are now, since a version of the newest data is what it was
started for.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import ValidationError

from recast_api.base import Wire
from recast_api.run import DataRef
from recast_trainer.data.schema import DATASET, ITEMS, PARQUET, SEGMENTS, Dataset
from recast_trainer.data.segments import Segment
from recast_trainer.files import write_bytes

PINNED = "data.json"
_END_BYTES = 4096


class PinnedFile(Wire):
    """A file of the data set as it was when the run began. The end of a Parquet file says what it holds and where."""

    path: str
    """Inside the data set's folder."""
    bytes: int
    end_sha256: str

    @classmethod
    def of(cls, folder: Path, path: str) -> PinnedFile:
        """The file as it is now. Raises ``OSError`` where there is none."""
        with (folder / path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES))
            return cls(path=path, bytes=size, end_sha256=hashlib.sha256(file.read()).hexdigest())

    def changed(self, folder: Path) -> str:
        """What has become of it, in words; empty where it is as it was."""
        try:
            return "" if PinnedFile.of(folder, self.path) == self else f"{self.path} was rewritten"
        except OSError:
            return f"{self.path} is gone"


class PinnedData(Wire):
    """What a run reads, and of which request for data that is the answer."""

    data: DataRef
    files: list[PinnedFile]

    @classmethod
    def of(cls, folder: Path, data: DataRef, segments: list[Segment]) -> PinnedData:
        """These segments, with what the data set says of itself. Raises ``OSError`` for a file that is gone."""
        files = [str(path.relative_to(folder)) for segment in segments for path in segment.files]
        catalogue = [ITEMS] if (folder / ITEMS).exists() else []  # it is missed where it is read
        return cls(data=data, files=[PinnedFile.of(folder, path) for path in [DATASET, *catalogue, *files]])

    @classmethod
    def read(cls, work: Path) -> PinnedData | None:
        """The run's pin; None where there is none. Raises ``ValueError`` for one that is damaged."""
        try:
            return cls.model_validate_json((work / PINNED).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ValueError(f"{PINNED} is damaged") from error

    def write(self, work: Path) -> None:
        """Make this the run's pin; a crash leaves it whole or absent."""
        write_bytes(work / PINNED, self.encoded())

    def encoded(self) -> bytes:
        """As JSON."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()

    def changed(self, folder: Path, data: DataRef) -> str:
        """What is not as it was, in words; empty where all is."""
        if data != self.data:
            return "spec.data was changed"
        return next((found for pin in self.files if (found := pin.changed(folder))), "")

    def by_segment(self) -> dict[str, list[PinnedFile]]:
        """The files of each segment, by its name."""
        found: dict[str, list[PinnedFile]] = {}
        for pin in self.files:
            folder, *below = Path(pin.path).parts
            if folder == SEGMENTS:
                found.setdefault(below[0].removesuffix(PARQUET), []).append(pin)
        return found

    def segments(self, folder: Path, dataset: Dataset) -> list[Segment]:
        """What is pinned, in time order, whatever else has come to lie in the folder since."""
        files = {name: [folder / pin.path for pin in pins] for name, pins in self.by_segment().items()}
        return sorted((Segment.of(name, paths, dataset) for name, paths in files.items()), key=lambda each: each.start)
