"""The commands of docs/rollouts.md do to an expert's resource what the page says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dev.cluster import assets
from dev.cluster.controlplane import ControlPlane

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "rollouts.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
EXPERTS = "/apis/recast.dev/v1alpha1/namespaces/models/expertmodels"
NOW = "2026-11-21T12:00:00Z"


def revision(name: str, **more: Any) -> dict[str, Any]:
    """A revision as it stands in a status."""
    digest = "sha256:" + "ab" * 32
    pin = {"name": "home-fm", "version": 2, "lineage": 2, "digest": digest}
    serving = {"image": "registry.example.com/recast/server:0.1.0"}
    return {
        "revision": name, "version": 3, "digest": digest, "path": "em/reels/u/v3", "foundation": pin,
        "serving": serving, "since": NOW, **more,
    }  # fmt: skip


@pytest.fixture
def reels(recast: httpx.Client) -> httpx.Client:
    """The administrator of an apiserver with an expert that has a canary and two failed revisions."""
    recast.post("/api/v1/namespaces", json={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}})
    recast.delete(f"{EXPERTS}/reels")
    made = recast.post(EXPERTS, json=yaml.safe_load((ROOT / "examples" / "reels.yaml").read_text())).raise_for_status()
    failed = [
        {"revision": name, "version": 2, "foundationVersion": 1, "reason": "AnalysisFailed", "message": "", "time": NOW}
        for name in ("0000000old", "000000newe")
    ]
    status = {"canary": revision("00000canar", progressedAt=NOW), "failedRevisions": failed}
    recast.put(f"{EXPERTS}/reels/status", json={**made.json(), "status": status}).raise_for_status()
    return recast


def run(control_plane: ControlPlane, tmp_path: Path, block: str) -> str:
    """The output of one block of commands."""
    (tmp_path / "kubectl").symlink_to(assets.binaries() / "kubectl")
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(control_plane.kubeconfig),
    }
    command = ["bash", "-euo", "pipefail", "-c", block]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("action", "asked"), [("Abort", "00000canar"), ("Promote", "00000canar"), ("Retry", "000000newe")]
)
def test_a_request_names_the_revision_that_it_is_about(
    reels: httpx.Client, control_plane: ControlPlane, tmp_path: Path, action: str, asked: str
) -> None:
    (block,) = [block for block in BLOCKS if f'"action": "{action}"' in block]
    run(control_plane, tmp_path, block)
    request = reels.get(f"{EXPERTS}/reels").json()["spec"]["rollout"]["request"]
    assert (request["action"], request["revision"]) == (action, asked)
    assert re.fullmatch(r"\d+", request["id"])


def test_every_other_command_is_one_that_kubectl_and_the_apiserver_take(
    reels: httpx.Client, control_plane: ControlPlane, tmp_path: Path
) -> None:
    others = [block for block in BLOCKS if '"action"' not in block]
    assert len(others) + 3 == len(BLOCKS)
    assert "00000canar" in run(control_plane, tmp_path, "\n".join(others))
