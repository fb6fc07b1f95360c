"""The version that servers tell is the package's."""

from __future__ import annotations

import tomllib
from pathlib import Path

from recast_api import __version__

ROOT = Path(__file__).resolve().parents[3]


def test_code_and_package_have_one_version() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
