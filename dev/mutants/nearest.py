"""Which unit tests are nearest to a module: those that import it; where none does, those that import its package.

Folders of tests are called like what they test: where there are some whose name is a word of the module's, they alone
count. The tests that import it run first and the others of their folders follow, so that a mutant that only a
neighbour notices is killed too; with ``pytest -x`` that costs time for survivors alone.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path("tests/unit")


def nearest(root: Path, packages: list[str], file: str) -> tuple[str, ...]:
    """Test files for ``file``, nearest first. Raises :class:`ValueError` where no unit test comes near it.

    ``packages``: folders from which Python imports, so that ``operator/a/b.py`` is the module ``a.b``.
    """
    files = sorted((root / TESTS).rglob("*.py"))
    module = _module(packages, file)
    words = set(re.split(r"[._]", module))
    for among in ([path for path in files if path.parent.name in words], files):
        for name in _outwards(module):
            near = [path for path in among if any(_inside(imported, name) for imported in _imported(path))]
            folders = {path.parent for path in near}
            chosen = dict.fromkeys([*near, *(path for path in files if path.parent in folders)])  # a set with an order
            if tests := tuple(str(path.relative_to(root)) for path in chosen if path.name.startswith("test_")):
                return tests
    raise ValueError(f"no unit test imports {file} or its package: name some with tests = [...]")


def _module(packages: list[str], file: str) -> str:
    path = Path(file).with_suffix("")
    parts = path.parts[1:] if path.parts[0] in packages else path.parts
    return ".".join(part for part in parts if part != "__init__")


def _outwards(module: str) -> list[str]:
    """The module, its package, and so on."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


@cache
def _imported(path: Path) -> frozenset[str]:
    """Dotted names that a file imports: of ``from a import b`` both ``a`` and ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)
