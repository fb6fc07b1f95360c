"""Started by torchrun: a few global batches, then this run's predictions and weights in a file. Arguments: data,
optimiser of dense weights and tables (``SGD`` or ``Adam``), number of steps, requests in a global batch, file to write,
folder of checkpoints: one is written after half of the steps, and one that is there is gone on with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from recast_api.resources.common import Optimizer
from recast_api.run import DataRef, Optimization
from recast_model.config import FoundationConfig
from recast_model.embeddings import TableOptimizer
from recast_model.foundation import FoundationModel
from recast_model.losses import foundation_loss
from recast_trainer.data.requests import Requests
from recast_trainer.evaluation.scoring import score_foundation
from recast_trainer.training.checkpoint import Checkpoints, Progress, resume
from recast_trainer.training.loop import global_batches
from recast_trainer.training.process_group import join_process_group
from recast_trainer.training.step import Learner
from recast_trainer.training.stream import open_stream, shard


def main(data: Path, optimizer: str, steps: int, size: int, target: Path, checkpoints: Checkpoints) -> None:
    stream = open_stream(data, DataRef(path="set"))
    config = FoundationConfig(
        "DLRMv3", 1, 16, 2, 16, 16, 8, stream.dataset.content_dim, len(stream.items), stream.dataset.surface_names,
        stream.dataset.tasks, dropout=0.0, context=stream.dataset.context_features,
    )  # fmt: skip
    sgd = optimizer == "SGD"
    with join_process_group() as group:
        torch.manual_seed(0)
        table = TableOptimizer("SGD", 0.1) if sgd else TableOptimizer(learning_rate=0.03)
        model = FoundationModel(config, torch.from_numpy(stream.items.content_matrix()), table)
        settings = Optimization(
            batch_size=size, learning_rate="0.1" if sgd else "0.003", optimizer=Optimizer(warm_up_steps=1)
        )
        learner = Learner(model, group, settings)
        if sgd:
            learner.optimizer = torch.optim.SGD(learner.parameters, lr=0.1)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        if found := resume(checkpoints, group):
            learner.restore(found[1], found[0].step)
        requests = Requests.concatenate([part for _, part in stream.walk(config.history_length)])
        model.observe_context(requests.context_numbers)
        for chunk in list(global_batches(np.arange(len(requests)), size))[learner.steps : steps]:
            _, batch = shard(requests.take(chunk), stream.items, group)
            learner.step(lambda batch=batch: foundation_loss(model(batch), batch).total)
            if learner.steps == steps // 2:
                state = learner.state()
                if group.is_leader:
                    checkpoints.save(Progress(learner.steps, learner.steps), state)
        scored, tae = score_foundation(model, requests.take(slice(100)), stream.items, group)
        after = model.state_dict()
        assert learner.finite()
        if group.is_leader:
            moved = {f"moved.{name}": value - before[name] for name, value in after.items()}
            outputs = {"logits": torch.from_numpy(scored.logits), "tae": torch.from_numpy(tae)}
            save_file({name: value.contiguous() for name, value in (outputs | moved).items()}, target)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]),
        Checkpoints(Path(sys.argv[6]), "same"),
    )  # fmt: skip
