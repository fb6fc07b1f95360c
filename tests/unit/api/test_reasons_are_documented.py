"""Every reason that the code can say has a paragraph in docs/reasons.md, and the page has no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reasons.md"
SPEAKERS = (
    "api/recast_api",
    "model/recast_model",
    "operator/recast_operator",
    "server/recast_server",
    "trainer/recast_trainer",
)
DECIDES = (
    *sorted((ROOT / "operator/recast_operator/planning").rglob("*.py")),
    ROOT / "operator/recast_operator/controller.py",
)
"""Here reasons travel through helpers and tables: every CamelCase word that is not one of these counts."""
WORDS = {
    "condition types": {"Accepted", "Ready", "Reconciling", "Retired", "Stale", "Stalled", "Trained"},
    "values of conditions and events": {"True", "False", "Unknown", "Normal", "Warning"},
    "states in a status": {"Failed", "Initial", "Rejected", "Reserved", "Running"},
    "states and reasons of an observed run": {"Admitted", "Disrupted", "Queued", "Succeeded"},
    "actions of a request": {"Abort", "Promote", "Retry"},
    "policies": {"SpecChange"},
    "what becomes of an inconclusive version": {"Accept", "Reject"},
    "decisions that a doubt holds": {"Acceptance", "Rollout", "Run"},
    "kinds": {"Deployment", "ExpertModel", "FoundationModel", "Job", "ModelVersion", "Pod", "Service"},
    "words of spec.serving.networkPolicy": {"Enforced", "None"},
    "kinds of guards": {"NetworkPolicy", "PodDisruptionBudget"},
    "the kubelet's words for ImagePullBackOff": {"ErrImageNeverPull", "ErrImagePull", "InvalidImageName"},
    "parts of an event": {"Reconcile", "Request"},
    "names of classes": {"StatusT", "T"},
}
NOT_REASONS = frozenset(word for words in WORDS.values() for word in words)
CAMEL = re.compile(r"[A-Z]+[a-z][A-Za-z0-9]*")


def _files() -> list[Path]:
    return [path for folder in SPEAKERS for path in sorted((ROOT / folder).rglob("*.py")) if "proto" not in path.parts]


def _constants(tree: ast.AST) -> dict[str, str]:
    """Module constants that hold a string."""
    return {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _errors(tree: ast.AST) -> Iterator[str]:
    """The reasons of termination messages and refused requests."""
    known = _constants(tree)
    positions = {"RecastError": 0, "TerminationMessage": 0, "_message": 0, "RefusedError": 1}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in positions:
            continue
        place = positions[node.func.id]
        given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"] or node.args[place : place + 1]
        for value in given:
            if isinstance(value, ast.Constant):
                yield str(value.value)
            elif isinstance(value, ast.Name) and value.id in known:
                yield known[value.id]


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CAMEL.fullmatch(node.value):
            yield node.value


def said() -> dict[str, str]:
    """Reason to the file that says it."""
    found: dict[str, str] = {}
    for path in _files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        reasons = [*_errors(tree), *(word for word in _words(tree) if path in DECIDES and word not in NOT_REASONS)]
        found |= dict.fromkeys(reasons, str(path.relative_to(ROOT)))
    return found


def documented() -> list[str]:
    return re.findall(r"^### (\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_reason_has_a_paragraph() -> None:
    assert {reason: where for reason, where in said().items() if reason not in documented()} == {}


def test_every_paragraph_is_about_a_reason_that_the_code_can_say() -> None:
    assert sorted(set(documented()) - set(said())) == []


def test_no_reason_has_two_paragraphs() -> None:
    assert len(documented()) == len(set(documented()))


def test_every_paragraph_says_more_than_its_title() -> None:
    for section in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        title, _, text = section.partition("\n")
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]{2,63}", title), title
        assert len(text.split("\n## ")[0].split()) >= 4, title
