"""The files of a comparison: Markdown with its picture, a page that has both, and the figures for programs."""

from __future__ import annotations

import json
from pathlib import Path

from recast_trainer.evaluation.compare.markdown import markdown
from recast_trainer.evaluation.compare.picture import html, svg
from recast_trainer.evaluation.compare.results import Comparison

NAME = "comparison"


def write_reports(found: Comparison, folder: Path) -> list[Path]:
    """Write them into a folder, which is made where it is not there; older ones are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": markdown(found, f"{NAME}.svg"),
        "html": html(found),
        "svg": svg(found) + "\n",
        "json": json.dumps(found.to_json(), indent=1) + "\n",
    }
    paths = [folder / f"{NAME}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
