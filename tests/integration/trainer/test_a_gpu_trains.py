"""On a GPU the whole trainer does what it does on a CPU: train, measure beside the version before, land, read again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainer_support import write_synthetic

from recast_trainer.local import Models

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MODELS = """
apiVersion: recast.dev/v1alpha1
kind: FoundationModel
metadata: {name: home-fm}
spec:
  architecture: {layers: 2, dim: 32, heads: 2, historyLength: 32, taeDim: 16}
  storage: {persistentVolumeClaim: {claimName: models}}
  data: {persistentVolumeClaim: {claimName: data}, path: stream}
  training: {image: trainer, batchSize: 32, learningRate: "0.006"}
  serving: {image: server}
---
apiVersion: recast.dev/v1alpha1
kind: ExpertModel
metadata: {name: reels}
spec:
  foundationRef: {name: home-fm}
  surface: reels
  tasks: [{name: click}, {name: long_view}]
  architecture: {layers: 1, dim: 16, heads: 2, historyLength: 16}
  training: {image: trainer, batchSize: 32, epochs: 2, learningRate: "0.006"}
  serving: {image: server}
"""


def train(folder: Path, data: Path, models: str, *, gpu: bool) -> Models:
    """Foundation and expert, twice: the second versions are measured against the first ones."""
    file = folder / "models.yaml"
    file.write_text(MODELS)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path} | ({} if gpu else {"CUDA_VISIBLE_DEVICES": ""})
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "recast_trainer", "train", file, "--data", data, "--models", folder / models],
            env=environment, capture_output=True, text=True, timeout=250, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
        print(done.stdout)
    return Models(folder / models)


def test_foundation_and_expert_are_trained_and_refreshed_on_a_gpu_as_well_as_on_a_cpu(tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "stream", hours=16, requests=120)
    on_gpu, on_cpu = (train(tmp_path, data, name, gpu=name == "gpu") for name in ("gpu", "cpu"))
    for kind, name in (("FoundationModel", "home-fm"), ("ExpertModel", "reels")):
        for number in (1, 2):
            ours, theirs = (models.manifest(kind, name, number).aggregate for models in (on_gpu, on_cpu))
            assert ours is not None
            assert theirs is not None
            assert (ours.baseline_ne is None) == (number == 1), "the second version is measured beside the first"
            assert float(ours.ne) == pytest.approx(float(theirs.ne), abs=0.02)
