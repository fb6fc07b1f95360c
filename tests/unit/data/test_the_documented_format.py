"""docs/data.md shows how to write a data set; what it shows is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recast_api.run import DataRef
from recast_trainer.data.commands import main
from recast_trainer.data.schema import COLUMNS
from recast_trainer.training.split import split
from recast_trainer.training.stream import open_stream

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/data.md", "exec"), {})
    return tmp_path / "stream"


def test_the_example_passes_the_check_it_names(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(written)]) == 0
    said = capsys.readouterr().out
    assert "my-events: 16 rows, 1 users, 2 items" in said
    assert "click: base rate 0.5000 of 16" in said


def test_the_example_can_be_trained_on(written: Path) -> None:
    stream = open_stream(written, DataRef(path="stream"))
    assert sum(len(requests) for _, requests in stream.walk(4)) == 8
    assert split(stream.segments).end == 8


def test_every_column_is_documented() -> None:
    table = [line for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert set(COLUMNS) <= named
