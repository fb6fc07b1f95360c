"""One update from one global batch, the same whether one process computes it or several.

Each process sees its share of the requests and divides its summed loss by the *global* number of valid labels, so the
sum of gradients over processes is the gradient of the global batch. Randomness is a function of (seed, step, rank),
so a resumed run draws what an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recast_api.resources.common import Optimizer
from recast_api.run import Optimization, RecastError
from recast_model.distributed import sum_gradients, sum_over_ranks
from recast_model.embeddings import EmbeddingTable
from recast_trainer.training.process_group import ProcessGroup

COOLED = 0.1


def rate_factor(optimizer: Optimizer, step: int, done: float) -> float:
    """Share of the learning rates at a step, counted from 0, when ``done`` (0 to 1) of the run is over.

    A linear rise, over after so many steps or such a share of the run, whichever is sooner; then all of it; at the end
    a line down to a tenth (warm-up, stable, decay: arXiv 2404.06395). The inverse square root (arXiv 1706.03762) is
    that of the share of the run, not of the step: by the step, a run a thousand times as long would learn next to
    nothing in its second half.
    """
    share = float(optimizer.warm_up_share)
    risen = max((step + 1) / optimizer.warm_up_steps, done / share)
    decayed = math.sqrt(share / done) if optimizer.decay == "InverseSquareRoot" and done > share else 1.0
    return min(1.0, risen) * decayed * cool_down(float(optimizer.cool_down_share), done)


def cool_down(share: float, done: float) -> float:
    """What is left of the rate over the last ``share`` of a run: a line from all of it to a tenth.

    What lands is where a run ends: at a high rate that is wherever the last few steps happened to throw it.
    """
    left = 1.0 - done
    return 1.0 if left >= share else COOLED + (1.0 - COOLED) * left / share


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters that weight decay pulls towards zero, and those that it leaves alone.

    It is for matrices, whose scale a norm undoes or a later layer answers. Norms, biases, embeddings and learned
    vectors have a scale of their own that means something.
    """
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trained if id(p) in matrices], [p for p in trained if id(p) not in matrices]


class Learner:
    """A model with its dense optimiser and its fused tables."""

    def __init__(self, model: nn.Module, group: ProcessGroup, optimization: Optimization) -> None:
        self.model, self.group, self.seed = model, group, optimization.seed
        self.learning_rate, self.settings = float(optimization.learning_rate), optimization.optimizer
        self.max_norm = float(self.settings.max_gradient_norm)
        self.tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
        decayed, free = decay_groups(model)
        self.parameters = [*decayed, *free]
        groups = [
            {"params": decayed, "weight_decay": float(self.settings.weight_decay)},
            {"params": free, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.learning_rate)
        self.steps = 0

    def step(self, loss_of_shard: Callable[[], Tensor], done: float = 0.0) -> None:
        """Learn from one global batch; every process must call it. Raises ``NotFinite`` before anything is changed.

        ``loss_of_shard`` gives this process's summed loss over the global count of labels; ``done`` is the share of the
        run that is over.
        """
        torch.manual_seed((self.seed * 1_000_003 + self.steps) * 1_009 + self.group.rank)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss_of_shard().backward()  # type: ignore[no-untyped-call]
        for parameter in self.parameters:
            if parameter.grad is None:  # as sum_gradients does, so that weight decay does not depend on the group
                parameter.grad = torch.zeros_like(parameter)
        sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        if not torch.isfinite(norm):
            for table in self.tables:
                table.discard()
            raise RecastError(
                "NotFinite",
                f"the gradient of step {self.steps} is not finite; the model was left as it was. "
                "Lower spec.training.learningRate",
            )
        factor = rate_factor(self.settings, self.steps, done)
        for table in self.tables:
            table.step(factor, self.max_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.learning_rate * factor
        self.optimizer.step()
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """Weights, tables and both optimisers' state, by name: all that the next step depends on beside the data.

        Every process must call it; the leader alone is given the tables, whole.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, table in enumerate(self.tables):
            tensors |= {f"table.{index}.{name}": value for name, value in table.optimizer_state().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in values.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Continue from what :meth:`state` gave the leader, of as many processes or of another number."""
        self.model.load_state_dict(_below("model.", tensors))
        for index, table in enumerate(self.tables):
            table.load_optimizer_state(_below(f"table.{index}.", tensors))
        state = self.optimizer.state_dict()
        state["state"] = {
            index: values
            for index in range(len(self.parameters))
            if (values := {name: value.clone() for name, value in _below(f"adam.{index}.", tensors).items()})
        }
        self.optimizer.load_state_dict(state)
        self.steps = steps

    def finite(self) -> bool:
        """Whether every weight is finite, on whichever process it is; every process must call it."""
        held = [*self.model.parameters(), *(table.weight for table in self.tables)]
        bad = sum(not torch.isfinite(tensor).all() for tensor in held)
        return not sum_over_ranks(torch.tensor(bad, device=self.group.device))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
