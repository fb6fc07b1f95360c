"""A recording keeps what the demo printed, and becomes an SVG in which every line appears in its time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.demo import __main__ as command
from dev.demo.picture import COLUMNS, HOLD_SECONDS, PLAY_SECONDS, ROW_HEIGHT, ROWS, svg, timing
from dev.demo.screen import Screen, Shown, recorded
from recast_cli.timeline import Line

SVG = "{http://www.w3.org/2000/svg}"
DONE = Shown(290, "everything the demo stands for is true (4 min 50 s)", "good")


def lines(root: ElementTree.Element) -> list[ElementTree.Element]:
    """The texts that appear, in order."""
    return [text for text in root.iter(f"{SVG}text") if text.get("class", "").startswith("l ")]


def ticking(*seconds: float) -> Iterator[float]:
    yield 100.0
    for second in seconds:
        yield 100.0 + second


def test_a_recording_holds_what_was_printed_with_time_and_tone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = ticking(1, 1, 65, 65)
    screen = Screen(clock=lambda: next(times))
    screen.record(tmp_path / "demo" / "recording.jsonl")
    screen.line(Line("reels", "v1@fm1 serves", "good"))
    screen.line(Line("feed", "Größe [x] -> <y>"))
    expected = [Shown(1, "00:01 reels      v1@fm1 serves", "good"), Shown(65, "01:05 feed       Größe [x] -> <y>")]
    assert recorded(tmp_path / "demo" / "recording.jsonl") == expected
    assert capsys.readouterr().out.splitlines() == [entry.text for entry in expected]


def test_a_new_run_begins_a_new_recording_and_a_screen_without_one_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl"
    for text in ("first", "second"):
        screen = Screen()
        screen.record(path)
        screen.text(text)
    Screen().text("third")
    assert [entry.text for entry in recorded(path)] == ["second"]


def test_every_line_is_drawn_in_its_tone_and_appears_in_order_of_time() -> None:
    told = [Shown(3, "a <b> & c"), Shown(100, "bad news", "bad"), Shown(200, "waits", "wait"), DONE]
    drawn = lines(ElementTree.fromstring(svg(told)))
    assert [(text.text, text.get("class")) for text in drawn] == [
        ("a <b> & c", "l plain"),
        ("bad news", "l bad"),
        ("waits", "l wait"),
        (DONE.text, "l good"),
    ]
    delays = [float(re.fullmatch(r"animation-delay:([\d.]+)s", text.get("style", ""))[1]) for text in drawn]  # type: ignore[index]
    assert delays == pytest.approx([3 * 40 / 290, 100 * 40 / 290, 200 * 40 / 290, 40], abs=0.01)
    heights = [float(text.get("y", 0)) for text in drawn]
    assert [after - before for before, after in itertools.pairwise(heights)] == [ROW_HEIGHT] * 3


def test_without_animation_the_end_of_the_run_is_what_is_seen() -> None:
    told = [*(Shown(second, f"line {second}") for second in range(ROWS + 9)), DONE]
    text = svg(told)
    assert f'transform="translate(0,{-10 * ROW_HEIGHT})"' in text
    assert text.count(f"translate(0,-{10 * ROW_HEIGHT}px)") == 1
    assert text.index("prefers-reduced-motion:reduce") > text.index(".s{animation:scroll")  # so it overrides that


def test_lines_that_fit_do_not_scroll() -> None:
    assert "scroll" not in svg([*(Shown(second, "x") for second in range(ROWS - 1)), DONE])


def test_a_long_line_is_cut_and_says_so() -> None:
    (drawn, _) = lines(ElementTree.fromstring(svg([Shown(0, "x" * 500), DONE])))
    assert drawn.text == "x" * (COLUMNS - 1) + "…"


def test_the_title_says_how_long_it_took_and_how_long_it_plays() -> None:
    assert "make demo: 4 min 50 s, shown in 40 s" in svg([Shown(0, "x"), DONE])


def test_a_picture_of_a_long_run_stays_small() -> None:
    assert len(svg([*(Shown(second, "m" * COLUMNS) for second in range(250)), DONE]).encode()) < 100_000


def test_a_run_shorter_than_the_picture_is_not_stretched() -> None:
    assert timing([0, 1, 5]) == [0, 1, 5]


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=80).map(sorted))
def test_no_two_lines_are_closer_than_can_be_read_and_none_comes_before_its_share_of_the_time(
    seconds: list[float],
) -> None:
    moments = timing(seconds)
    assert all(after - before >= HOLD_SECONDS - 1e-9 for before, after in itertools.pairwise(moments))
    scale = min(1, PLAY_SECONDS / max(seconds[-1], 1e-9))
    assert all(moment >= second * scale - 1e-9 for moment, second in zip(moments, seconds, strict=True))
    assert moments[0] == pytest.approx(seconds[0] * scale)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("", "the recording is empty"),
        ('{"seconds": 9, "text": "the demo failed", "tone": "bad"}\n', "did not succeed"),
        ('{"seconds": 9, "text": "feed waits", "tone": "wait"}\n', "did not succeed: its last line is 'feed waits'"),
        ("not JSON\n", "Expecting value"),
    ],
)
def test_what_is_no_recording_of_a_demo_that_succeeded_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, complaint: str
) -> None:
    recording, out = tmp_path / "recording.jsonl", tmp_path / "demo.svg"
    if text is not None:
        recording.write_text(text)
    assert command.draw(recording, out) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert "run make demo first" in error
    assert not out.exists()


def test_a_recording_is_drawn_to_the_file_that_is_named(tmp_path: Path) -> None:
    screen = Screen()
    screen.record(tmp_path / "recording.jsonl")
    screen.text("everything is true", "good")
    assert command.draw(tmp_path / "recording.jsonl", tmp_path / "demo.svg") == 0
    assert "everything is true" in (tmp_path / "demo.svg").read_text()
