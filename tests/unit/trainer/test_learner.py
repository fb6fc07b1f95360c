"""One update, by numbers: the rate, the optimiser's step, clipping, randomness and what stops it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recast_api.resources.common import Optimizer
from recast_api.run import Optimization, RecastError
from recast_model.config import FoundationConfig
from recast_model.context import ContextFeature
from recast_model.embeddings import EmbeddingTable, TableOptimizer
from recast_model.foundation import FoundationModel
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.step import Learner, cool_down, decay_groups, rate_factor


class Small(nn.Module):
    """Two dense numbers, a matrix and a bias that no loss reads, and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.unread = nn.Linear(1, 1)
        nn.init.ones_(self.unread.weight)
        nn.init.ones_(self.unread.bias)
        self.frozen = nn.Parameter(torch.tensor([1.0]), requires_grad=False)
        self.table = EmbeddingTable("items", 4, 4, TableOptimizer("SGD", learning_rate=0.5))


def learner(rate: str = "0.1", seed: int = 0, rank: int = 0, **optimizer: Any) -> Learner:
    """Without a warm-up unless the test asks for one."""
    settings = Optimizer(**({"warm_up_steps": 1} | optimizer))
    optimization = Optimization(batch_size=1, learning_rate=rate, optimizer=settings, seed=seed)
    return Learner(Small(), ProcessGroup(rank, 1), optimization)


def loss_with(made: Learner, gradient: tuple[float, float], table: float = 0.0) -> Tensor:
    """A loss whose gradient by the dense numbers, and by row 2 of the table, is this."""
    model = made.model
    assert isinstance(model, Small)
    return (model.dense * torch.tensor(gradient)).sum() + model.table(torch.tensor([2])).sum() * table


@pytest.mark.parametrize(
    ("step", "done", "factor"),
    [
        (0, 0.0, 0.01),
        (49, 0.0, 0.5),
        (99, 0.0, 1.0),
        (99, 0.01, 1.0),  # a long run is warm after a hundred steps
        (5_000, 0.05, 1.0),
        (3, 0.02, 0.2),  # a short one by its share
        (9, 0.05, 0.5),
        (19, 0.1, 1.0),
        (80, 0.7, 1.0),
        (80, 0.85, 0.55),
        (800_000, 1.0, 0.1),
    ],
)
def test_the_rate_rises_over_a_hundred_steps_or_a_tenth_of_the_run_and_stays_until_the_last_three_tenths(
    step: int, done: float, factor: float
) -> None:
    assert rate_factor(Optimizer(), step, done) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "step", "done", "factor"),
    [
        ({"warm_up_steps": 4}, 0, 0.0, 0.25),
        ({"warm_up_steps": 1}, 0, 0.0, 1.0),
        ({"warm_up_share": "0.5"}, 3, 0.25, 0.5),
        ({"warm_up_share": "1"}, 3, 0.6, 0.6),
        ({"cool_down_share": "0"}, 3, 1.0, 1.0),
        ({"decay": "InverseSquareRoot"}, 3, 0.05, 0.5),
        ({"decay": "InverseSquareRoot"}, 3, 0.1, 1.0),
        ({"decay": "InverseSquareRoot"}, 80, 0.4, 0.5),
        ({"decay": "InverseSquareRoot"}, 800_000, 0.4, 0.5),  # by the share: a long run falls no further
        ({"decay": "InverseSquareRoot", "warm_up_share": "0.25", "cool_down_share": "0"}, 3, 1.0, 0.5),
        ({"decay": "InverseSquareRoot"}, 3, 0.9, (0.1 / 0.9) ** 0.5 * 0.4),
    ],
)
def test_warm_up_decay_and_cool_down_are_as_the_run_has_them(
    settings: dict[str, Any], step: int, done: float, factor: float
) -> None:
    assert rate_factor(Optimizer(**settings), step, done) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("share", "done", "left"),
    [(0.3, 0.0, 1.0), (0.3, 0.7, 1.0), (0.3, 0.85, 0.55), (0.3, 1.0, 0.1), (1.0, 0.5, 0.55), (0.0, 1.0, 1.0)],
)
def test_a_run_cools_down_to_a_tenth_over_its_last_share(share: float, done: float, left: float) -> None:
    assert cool_down(share, done) == pytest.approx(left)


@given(
    settings=st.builds(
        Optimizer,
        warm_up_steps=st.integers(1, 1000),
        warm_up_share=st.sampled_from(["0.01", "0.1", "0.5", "1"]),
        decay=st.sampled_from(["InverseSquareRoot", "Constant"]),
        cool_down_share=st.sampled_from(["0", "0.3", "1"]),
    ),
    step=st.integers(0, 10**6),
    done=st.floats(0.0, 1.0),
)
def test_every_schedule_is_above_nothing_and_at_most_the_whole_rate(
    settings: Optimizer, step: int, done: float
) -> None:
    assert 0.0 < rate_factor(settings, step, done) <= 1.0


def test_dense_weights_and_tables_are_on_one_schedule() -> None:
    made = learner()
    made.step(lambda: loss_with(made, (0.1, 0.1), table=0.25), 0.85)
    assert isinstance(made.model, Small)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(0.055)
    assert made.optimizer.param_groups[1]["lr"] == pytest.approx(0.055)
    assert made.model.table.weight[2].sum().item() == pytest.approx(-0.5 * 0.55)


def test_the_first_step_is_adamws_with_a_decay_of_a_hundredth_of_matrices_at_the_steps_rate() -> None:
    made = learner("0.1", warm_up_steps=4)
    made.step(lambda: loss_with(made, (0.3, -0.4)))
    rate = 0.1 / 4
    model = made.model
    assert isinstance(model, Small)
    # Adam's first step is the sign of the gradient; decay multiplies by 1 - rate / 100, for what no loss reads too.
    torch.testing.assert_close(model.dense.detach(), torch.tensor([1.0, -2.0]) - rate * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(model.unread.weight.detach(), torch.tensor([[1 - rate * 0.01]]))
    assert model.unread.bias.item() == 1.0
    assert model.frozen.item() == 1.0
    assert made.steps == 1


@pytest.mark.parametrize(
    ("most", "gradient", "clipped"),
    [("1", (3.0, -4.0), (0.6, -0.8)), ("1", (0.3, -0.4), (0.3, -0.4)), ("2.5", (3.0, -4.0), (1.5, -2.0))],
)
def test_dense_gradients_are_clipped_to_the_largest_norm_and_smaller_ones_left_alone(
    most: str, gradient: tuple[float, float], clipped: tuple[float, float]
) -> None:
    made = learner(max_gradient_norm=most)
    made.step(lambda: loss_with(made, gradient))
    assert isinstance(made.model, Small)
    first_moment = made.optimizer.state[made.model.dense]["exp_avg"]
    torch.testing.assert_close(first_moment, 0.1 * torch.tensor(clipped))


def test_a_tables_gradient_is_clipped_to_the_largest_norm_that_the_run_has() -> None:
    made = learner(max_gradient_norm="0.5")
    made.step(lambda: loss_with(made, (0.1, 0.1), table=2.0))
    assert isinstance(made.model, Small)
    assert made.model.table.weight[2].sum().item() == pytest.approx(-0.5)


def test_without_a_decay_of_weights_what_no_loss_reads_stays() -> None:
    made = learner(weight_decay="0")
    made.step(lambda: loss_with(made, (0.3, -0.4)))
    assert isinstance(made.model, Small)
    assert made.model.unread.weight.item() == 1.0


@pytest.mark.parametrize(("gradient", "moved"), [(0.25, -0.5), (0.5, -1.0), (2.0, -1.0)])
def test_tables_take_their_own_step_beside_the_dense_one_on_the_same_schedule_and_clipped_likewise(
    gradient: float, moved: float
) -> None:
    """Four numbers of one row, each by the rate of 0.5 times the gradient; above 0.5 each, their norm exceeds 1."""
    made = learner(warm_up_steps=2)
    for factor in (0.5, 1.0):
        assert isinstance(made.model, Small)
        before = made.model.table.weight[2].clone()
        made.step(lambda: loss_with(made, (0.1, 0.1), table=gradient))
        assert (made.model.table.weight[2] - before).sum().item() == pytest.approx(moved * factor)
    assert made.model.table.weight[[0, 1, 3]].abs().sum() == 0


def test_matrices_decay_and_norms_biases_embeddings_and_learned_vectors_do_not() -> None:
    config = FoundationConfig(
        block="DLRMv3", layers=1, dim=8, heads=2, history_length=4, attn_norm_len=4, tae_dim=4, content_dim=2,
        item_count=3, surfaces=("feed", "reels"), tasks=("click",), context=(ContextFeature("age", "Numeric"),),
    )  # fmt: skip
    model = FoundationModel(config, torch.zeros(4, 2))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = (sorted(names[id(parameter)] for parameter in group) for group in decay_groups(model))
    assert decayed == [
        "embed.1.weight", "heads.weight", "stack.layers.0.output.weight", "stack.layers.0.project.weight",
        "tokens.content_mlp.0.weight", "tokens.content_mlp.2.weight",
    ]  # fmt: skip
    assert {f"tokens.request_context.{name}" for name in ("values", "numbers", "unknown_numbers")} <= set(free)
    assert {"heads.bias", "align", "tokens.action", "tokens.hour.weight", "tokens.norm.weight"} <= set(free)
    assert len(decayed) + len(free) == len(names)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing_at_all(bad: float) -> None:
    made = learner()
    made.step(lambda: loss_with(made, (0.1, 0.1), table=1.0))
    before = {name: tensor.clone() for name, tensor in made.state().items()}
    with pytest.raises(RecastError, match="gradient of step 1 is not finite") as caught:
        made.step(lambda: loss_with(made, (bad, 0.1), table=1.0))
    assert caught.value.termination.reason == "NotFinite"
    after = made.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert made.steps == 1
    made.step(lambda: loss_with(made, (0.1, 0.1)))  # the table's gradient of the failed step is forgotten
    model = made.model
    assert isinstance(model, Small)
    assert model.table.weight.sum().item() == -1.0


def drawn(seed: int, steps: int, rank: int) -> float:
    made = learner(seed=seed, rank=rank)
    made.steps = steps
    seen: list[float] = []

    def loss() -> Tensor:
        seen.append(float(torch.rand(1)))
        assert made.model.training
        return loss_with(made, (0.1, 0.1))

    made.model.eval()
    made.step(loss)
    return seen[0]


def test_randomness_is_a_function_of_seed_step_and_rank() -> None:
    places = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 2) for rank in (0, 1)]
    values = {place: drawn(*place) for place in places}
    assert len(set(values.values())) == len(places)
    assert all(drawn(*place) == value for place, value in values.items())


def test_a_restored_learner_takes_the_very_next_step() -> None:
    straight, resumed = learner(warm_up_steps=3), learner(warm_up_steps=3)
    for made in (straight, resumed):
        made.step(lambda made=made: loss_with(made, (0.3, -0.1), table=1.0))  # type: ignore[misc]
    saved = {name: tensor.clone() for name, tensor in straight.state().items()}
    fresh = learner(warm_up_steps=3)
    fresh.restore(saved, 1)
    assert fresh.steps == 1
    for made in (straight, fresh):
        made.step(lambda made=made: loss_with(made, (0.2, 0.5), table=-1.0))  # type: ignore[misc]
    first, second = straight.state(), fresh.state()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_weight_that_is_not_finite_is_noticed_wherever_it_is() -> None:
    for name in ("dense", "table"):
        made = learner()
        assert made.finite()
        model = made.model
        assert isinstance(model, Small)
        with torch.no_grad():
            (model.dense if name == "dense" else model.table.weight[1])[1] = math.inf
        assert not made.finite()
