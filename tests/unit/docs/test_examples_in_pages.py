"""The YAML in the pages is what the API takes, and the images that are built stand on one another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from recast_api.resources import KINDS, ExpertServing, Rollout

ROOT = Path(__file__).resolve().parents[3]


def documents(page: str) -> list[dict[str, Any]]:
    """Every YAML document in a page's code blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [found for block in blocks for found in yaml.safe_load_all(block)]


def test_the_resources_in_the_readme_are_valid() -> None:
    kinds = {kind.__name__: kind for kind in KINDS}
    found = [kinds[document["kind"]].model_validate(document) for document in documents("README.md")]
    assert [type(entry).__name__ for entry in found] == ["FoundationModel", "ExpertModel"]


def test_the_roll_out_in_the_guide_is_valid() -> None:
    (found,) = documents("docs/rollouts.md")
    ExpertServing.model_validate(found["serving"])
    assert [step.set_weight for step in Rollout.model_validate(found["rollout"]).steps] == [25, 50]


def test_the_images_that_the_quickstart_builds_stand_on_one_another() -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    loop = re.search(r"for image in ([\w ]+); do", text)
    assert loop is not None
    built = re.findall(r"-f images/(\w+)/Dockerfile.*?-t ([\w-]+) \.", text)
    assert [tag for _, tag in built] == ["recast-base", "recast-builder", "recast-torch"]
    for folder in [*(folder for folder, _ in built), *loop[1].split()]:
        file = ROOT / "images" / folder / "Dockerfile"
        defaults = dict(re.findall(r"^ARG (BASE|BUILDER)=(\S+)$", file.read_text(), re.MULTILINE))
        assert defaults["BASE"] in {"debian:bookworm-slim", *(tag for _, tag in built)}, folder
        assert defaults.get("BUILDER", "recast-builder") == "recast-builder"
