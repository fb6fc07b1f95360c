"""A comparison as Markdown, as a picture and as a page."""

from __future__ import annotations

import itertools
import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recast_trainer.evaluation.compare import arms as kinds
from recast_trainer.evaluation.compare.markdown import markdown, table
from recast_trainer.evaluation.compare.picture import html, svg, ticks
from recast_trainer.evaluation.compare.reports import write_reports
from recast_trainer.evaluation.compare.results import ALL_TASKS, ArmResult, Comparison, Gap, SurfaceResult, Tried
from recast_trainer.evaluation.compare.statistics import Estimate

NONE = Estimate(math.nan, math.nan, math.nan)


def arm(name: str, ne: Estimate, steps: list[int]) -> ArmResult:
    return ArmResult(
        arm=name, learning_rate="0.003" if steps else None, steps=steps, ne={"click": ne, ALL_TASKS: ne},
        calibration={"click": 1.01234}, reachable={"click": 0.5, ALL_TASKS: (1 - ne.value) / 0.5},
    )  # fmt: skip


SURFACE = SurfaceResult(
    surface="reels", rows=1200, users=40, positives={"click": 300}, learned=9000, epochs=2, tuning_rows=700,
    tried=[Tried(kinds.WITH, "0.003", 2, 0.81), Tried(kinds.WITH, "9", 2, math.inf)],
    arms=[
        arm(kinds.ORACLE, NONE, []),
        arm(kinds.WITH, Estimate(0.8, 0.75, 0.85), [1100, 1100]),
        arm(kinds.WITHOUT, Estimate(0.9, 0.85, 0.95), [1100, 1080]),
        arm(kinds.BASE_RATE, Estimate(1.0004, 1.0, 1.02), []),
    ],
    gaps=[
        Gap(
            kinds.WITH, kinds.WITHOUT,
            difference=dict.fromkeys(("click", ALL_TASKS), Estimate(-0.1, -0.12, -0.08)),
            relative=dict.fromkeys(("click", ALL_TASKS), Estimate(-0.111, -0.13, -0.09)),
        )
    ],
    transfer=None,
)  # fmt: skip
FOUND = Comparison("home-fm v1", None, [0, 1], {"resamples": 1000}, [SURFACE])


def test_the_tables_hold_every_arm_gap_and_candidate() -> None:
    text = markdown(FOUND, "comparison.svg")
    for line in (
        "# What embeddings of home-fm v1 are worth",
        "![NE of each arm](comparison.svg)",
        "1,200 rows of 40 users held out (300 click); 9,000 rows learned, 2 epochs; tuned on 700 rows.",
        "| arm | rate | steps | NE, click | NE, all tasks | reached | calibration, click |",
        "| oracle | — | — | — | — | — | 1.012 |",
        "| expert with TAE | 0.003 | 1,100 | 0.8000 [0.7500, 0.8500] | 0.8000 [0.7500, 0.8500] | 40 % | 1.012 |",
        "| expert without TAE | 0.003 | 1,080 to 1,100 | 0.9000 [0.8500, 0.9500] | 0.9000 [0.8500, 0.9500] | 20 % "
        "| 1.012 |",
        "| base rate | — | — | 1.0004 [1.0000, 1.0200] | 1.0004 [1.0000, 1.0200] | 0 % | 1.012 |",
        "| expert with TAE against expert without TAE | -0.1000 [-0.1200, -0.0800], -11.10 % [-13.00, -9.00] "
        "| -0.1000 [-0.1200, -0.0800], -11.10 % [-13.00, -9.00] |",
        "| 0.003, 2 | 0.8100 |",
        "| 9, 2 | diverged |",
    ):
        assert f"\n{line}\n" in f"\n{text}\n"
    assert "2 training seeds and users" in text
    assert "1,000 draws" in text
    assert "transfer ratio" not in text


def test_one_seed_is_said_and_what_was_not_tuned_has_no_table_of_it() -> None:
    text = markdown(replace(FOUND, seeds=[0], surfaces=[replace(SURFACE, tried=[], epochs=1)]))
    assert "do not know what another training" in text
    assert "training seeds" not in text
    assert "rows learned, 1 epoch.\n" in text
    assert "tuning" not in text
    assert "![" not in text


def test_a_ratio_is_shown_where_there_is_one_and_its_absence_explained_where_it_is_withheld() -> None:
    both = replace(SURFACE, transfer={"click": Estimate(0.64, 0.4, 0.91), ALL_TASKS: None})
    text = markdown(replace(FOUND, against="small v3", surfaces=[both]))
    assert "# What embeddings of home-fm v1 are worth, beside small v3" in text
    assert "| experts' gap over foundations' gap | 0.64 [0.40, 0.91] | — (the foundations' gap includes 0) |" in text


def test_a_bar_in_a_cell_does_not_break_the_table() -> None:
    assert table(["a"], [["b|c"]]).splitlines()[-1] == r"| b\|c |"


def test_the_picture_has_a_mark_for_each_figure_that_is_defined() -> None:
    tree = ET.fromstring(svg(replace(FOUND, surfaces=[SURFACE, SURFACE])))
    name = "{http://www.w3.org/2000/svg}"
    circles = list(tree.iter(f"{name}circle"))
    assert [circle.get("class") for circle in circles] == ["learned", "learned", "fixed"] * 2
    assert [float(circle.get("cx") or 0) for circle in circles[:3]] == sorted(
        float(c.get("cx") or 0) for c in circles[:3]
    )
    texts = [text.text for text in tree.iter(f"{name}text")]
    assert texts.count("reels: NE, all tasks (lower is better)") == 2
    assert "0.800 [0.750, 0.850]" in texts
    assert kinds.ORACLE not in texts
    panels = [panel.get("transform") for panel in tree.iter(f"{name}g")]
    assert len(set(panels)) == 2


def test_names_cannot_break_out_of_the_page_or_the_picture() -> None:
    hostile = '<script>alert("1")</script>&'
    surface = replace(SURFACE, surface=hostile, positives={hostile: 1}, arms=[replace(SURFACE.arms[1], arm=hostile)])
    found = replace(FOUND, foundation=hostile, surfaces=[surface])
    page, picture = html(found), svg(found)
    assert "<script" not in page + picture
    assert "&lt;script&gt;" in page
    ET.fromstring(picture)


def test_the_page_needs_nothing_from_elsewhere_and_knows_light_and_dark() -> None:
    page = html(FOUND)
    outside = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for word in ("http", "<script", "<link", "<img", "url(", "@import", "src="):
        assert word not in outside
    assert "prefers-color-scheme:dark" in page
    assert page.count("<svg") == page.count("</svg>") == 1
    assert page.count("<table>") == 3


@given(st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=1, max_size=9))
def test_ticks_enclose_what_is_shown_at_equal_distances(values: list[float]) -> None:
    found = ticks(values)
    assert found[0] <= min(values) + 1e-6
    assert found[-1] >= max(values) - 1e-6
    assert 2 <= len(found) <= 9
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert min(steps) == pytest.approx(max(steps))
    assert min(steps) > 0


def test_the_reports_are_written_where_no_folder_is_yet_and_programs_can_read_the_figures(tmp_path: Path) -> None:
    paths = write_reports(FOUND, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["comparison.md", "comparison.html", "comparison.svg", "comparison.json"]

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(paths[-1].read_text(), parse_constant=refused)
    assert found["surfaces"][0]["arms"][0]["ne"]["click"] == {"value": None, "low": None, "high": None}
    assert found["surfaces"][0]["arms"][1]["ne"]["click"]["low"] == 0.75
