"""Delete from a PyTorch installation what a run on CPUs never loads, then prove that what is left still works.

What is loaded is observed, not guessed: import what Recast imports, do a step of each kind, and read which shared
objects the loader has mapped. Every other NVIDIA library, the Triton compiler, headers and static archives go.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

_EXERCISE = """
import torch, torch.distributed as dist, torch.distributed.run
import fbgemm_gpu
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
spec = (64, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)
table = SplitTableBatchedEmbeddingBagsCodegen([spec], optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, learning_rate=0.1)
out = table(torch.arange(6), torch.arange(7))
(torch.nn.Linear(8, 4)(out)).square().mean().backward()
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29511", rank=0, world_size=1)
dist.all_reduce(torch.ones(2))
torch.optim.AdamW([torch.zeros(2, requires_grad=True)])
print("\\n".join({line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}))
"""


def exercise() -> set[Path]:
    """The shared objects that a run maps. Raises ``CalledProcessError`` when the installation does not work."""
    out = subprocess.run([sys.executable, "-c", _EXERCISE], capture_output=True, text=True)
    if out.returncode:
        print(out.stderr, file=sys.stderr)
        out.check_returncode()
    return {Path(line).resolve() for line in out.stdout.splitlines() if line.startswith("/")}


def main() -> None:
    """Trim the environment that this interpreter belongs to."""
    site = Path(importlib.metadata.distribution("torch").locate_file(""))
    loaded = exercise()
    for path in [*site.glob("nvidia/**/*.so*"), *site.glob("nvidia/**/*.a")]:
        if path.resolve() not in loaded:
            path.unlink()
    for name in ("triton", "torch/include", "torch/share", "torch/bin/protoc", "torch/test", "cuda", "cuda_bindings"):
        shutil.rmtree(site / name, ignore_errors=True)
    for name in ("nvidia/**/include", "**/tests"):
        for folder in [path for path in site.glob(name) if path.is_dir()]:
            shutil.rmtree(folder, ignore_errors=True)
    exercise()


if __name__ == "__main__":
    main()
