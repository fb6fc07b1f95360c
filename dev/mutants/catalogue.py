"""The committed list of mutants: ``[[mutant]]`` tables in the ``*.toml`` files of this folder.

``file``: path from the repository's root. ``old``: text that stands exactly once in it. ``new``: what replaces it.
``why``: what goes wrong then. ``tests`` (optional): the tests to run; by default those nearest to the module.
``equivalent`` (optional): why no test can notice; such a mutant must survive, and is not counted.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("dev/mutants")
_FIELDS = {"file": str, "old": str, "new": str, "why": str, "tests": list, "equivalent": str}
_REQUIRED = {"file", "old", "new", "why"}


@dataclass(frozen=True)
class Mutant:
    """One change to one file."""

    listed: str
    """Where the entry stands, such as ``adapters.toml #3``."""
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...] = ()
    equivalent: str = ""

    def applied(self, text: str) -> str:
        """The file's text with the change in it."""
        return text.replace(self.old, self.new, 1)

    def line(self, text: str) -> int:
        """The line at which the change begins."""
        return text[: text.index(self.old)].count("\n") + 1


def load(root: Path) -> list[Mutant]:
    """Every mutant of the lists in ``root``. Raises :class:`ValueError` for a field that is not one, or is missing."""
    found = []
    for path in sorted((root / FOLDER).glob("*.toml")):
        for number, entry in enumerate(tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []), 1):
            where = f"{path.name} #{number}"
            wrong = [key for key, value in entry.items() if not isinstance(value, _FIELDS.get(key, ()))]
            if wrong or not entry.keys() >= _REQUIRED:
                raise ValueError(f"{where}: needs {', '.join(sorted(_REQUIRED))}; wrong or unknown: {wrong or 'none'}")
            found.append(Mutant(where, **{**entry, "tests": tuple(entry.get("tests", ()))}))
    return found


def problems(root: Path, mutants: Iterable[Mutant]) -> Iterator[str]:
    """What is wrong with the list itself: entries that the code has moved away from, or that say nothing."""
    seen: dict[tuple[str, str, str], str] = {}
    for mutant in mutants:
        path = root / mutant.file
        text = path.read_text(encoding="utf-8") if path.is_file() else None
        if text is None:
            yield f"{mutant.listed}: there is no {mutant.file}"
        elif (count := text.count(mutant.old)) != 1:
            yield f"{mutant.listed}: {mutant.file} has {mutant.old!r} {count} times, it must be once"
        elif mutant.old == mutant.new or not mutant.why.strip():
            yield f"{mutant.listed}: changes nothing, or does not say why it matters"
        elif path.suffix == ".py" and (error := _syntax_error(mutant.applied(text))):
            yield f"{mutant.listed}: {mutant.file} would not compile: {error}"
        yield from (f"{mutant.listed}: there is no {test}" for test in mutant.tests if not (root / test).exists())
        twin = seen.setdefault((mutant.file, mutant.old, mutant.new), mutant.listed)
        if twin != mutant.listed:
            yield f"{mutant.listed}: the same as {twin}"


def _syntax_error(text: str) -> str:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError as error:
        return f"{error.msg} at line {error.lineno}"
    return ""
