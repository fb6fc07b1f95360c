"""``kubectl explain`` has something to say of every part of a resource that people write."""

from __future__ import annotations

import os
import subprocess
import time

import httpx
import pytest

from dev.cluster import assets
from dev.cluster.controlplane import ControlPlane

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("em.spec.rollout.steps", "The canary's weights, in order and never falling."),
        ("em.spec.rollout.analysis", "What a step must pass, one entry per metric."),
        ("em.spec.rollout.request.action", "Abort: roll the canary back."),
        ("fm.spec.training.resources.limits", "What the container may use at most"),
        ("fm.spec.fleet.pilots", "Experts that try a candidate first"),
        ("mv.spec.measurements", "Quality on held-out rows"),
    ],
)
def test_a_field_is_explained(control_plane: ControlPlane, recast: httpx.Client, field: str, says: str) -> None:
    done, deadline = explain(control_plane, field), time.monotonic() + 30
    # A definition's OpenAPI document comes a moment after the kind is served.
    while "couldn't find resource" in done.stderr and time.monotonic() < deadline:
        done = explain(control_plane, field)
    assert done.returncode == 0, done.stderr
    assert says in " ".join(done.stdout.split())


def explain(control_plane: ControlPlane, field: str) -> subprocess.CompletedProcess[str]:
    command = [str(assets.binaries() / "kubectl"), f"--kubeconfig={control_plane.kubeconfig}", "explain", field]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": "/nonexistent"})
