"""The wrapper round FBGEMM's fused tables, against a dense reference and against its known traps."""

from __future__ import annotations

import pytest
import torch

from recast_api.run import RecastError
from recast_model.embeddings import EmbeddingTable, TableOptimizer

ROWS, DIM = 40, 8
ADAGRAD = TableOptimizer("RowwiseAdagrad", learning_rate=0.1)
SGD = TableOptimizer("SGD", learning_rate=0.1)


def table(optimizer: TableOptimizer | None = ADAGRAD) -> EmbeddingTable:
    made = EmbeddingTable("items", ROWS, DIM, optimizer)
    made.weight[1:] = torch.randn(ROWS - 1, DIM, generator=torch.Generator().manual_seed(0))
    return made.train()


def draws(steps: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randint(0, ROWS // 4, (3, 7), generator=g) for _ in range(steps)]  # many duplicates, and padding


def learn(one: EmbeddingTable, ids: torch.Tensor, target: torch.Tensor) -> None:
    ((one(ids) - target[ids]) ** 2).sum().backward()
    one.step()


def test_rowwise_adagrad_agrees_with_a_dense_reference() -> None:
    one, target = table(), torch.zeros(ROWS, DIM)
    weight, squares = one.weight.clone(), torch.zeros(ROWS)
    for ids in draws(20):
        learn(one, ids, target)
        gradient = torch.zeros(ROWS, DIM)
        gradient.index_add_(0, ids.flatten(), 2 * (weight - target)[ids.flatten()])
        gradient[0] = 0
        squares += gradient.pow(2).mean(1)
        weight = weight - 0.1 * gradient / (squares.sqrt() + ADAGRAD.eps)[:, None]
    torch.testing.assert_close(one.weight, weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.optimizer_state()["momentum1"].flatten(), squares, atol=1e-5, rtol=1e-5)


def test_the_first_two_adagrad_updates_are_those_worked_out_by_hand() -> None:
    one = EmbeddingTable("items", 3, 4, ADAGRAD).train()
    one.weight[2] = torch.tensor([1.0, -1.0, 0.0, 0.0])
    (one(torch.tensor([2])) * torch.tensor([3.0, 4.0, 0.0, 5.0])).sum().backward()
    one.step()  # squares: (9 + 16 + 25) / 4 = 12.5, one number per row; step: 0.1 * gradient / sqrt(12.5)
    expected = torch.tensor([1.0, -1.0, 0.0, 0.0]) - torch.tensor([0.3, 0.4, 0.0, 0.5]) / 12.5**0.5
    torch.testing.assert_close(one.weight[2], expected)
    # Twice in one batch, and once more in another lookup: one gradient (6, 0, 0, 0), whose square is 36 / 4.
    (one(torch.tensor([2, 2])) * torch.tensor([[1.0, 2.0, 0.0, 0.0], [2.0, -1.0, 0.0, 0.0]])).sum().backward()
    (one(torch.tensor([[2]])) * torch.tensor([3.0, -1.0, 0.0, 0.0])).sum().backward()
    one.step()
    torch.testing.assert_close(one.weight[2], expected - torch.tensor([0.6 / (12.5 + 9) ** 0.5, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(one.optimizer_state()["momentum1"].flatten(), torch.tensor([0.0, 0.0, 21.5]))
    assert not one.weight[:2].any()


def test_adagrads_defaults_are_a_rate_of_a_twentieth_and_an_eps_of_a_hundred_millionth() -> None:
    one = EmbeddingTable("items", 2, 4, TableOptimizer()).train()
    (one(torch.tensor([1])) * 1e-8).sum().backward()
    one.step()  # sqrt(1e-16) + 1e-8: eps halves the step
    torch.testing.assert_close(one.weight[1], torch.full((4,), -0.05 / 2))


def test_plain_gradient_descent_moves_by_rate_times_gradient() -> None:
    one = EmbeddingTable("items", 2, 4, SGD).train()
    (one(torch.tensor([1])) * torch.tensor([3.0, -4.0, 0.0, 1.0])).sum().backward()
    one.step()
    torch.testing.assert_close(one.weight[1], torch.tensor([-0.3, 0.4, 0.0, -0.1]))


def test_sgd_shows_the_scale_of_a_gradient_that_adagrad_hides() -> None:
    moved = {}
    for optimizer in (SGD, ADAGRAD):
        for factor in (1.0, 2.0):
            one = table(optimizer)
            before = one.weight.clone()
            (one(torch.tensor([3])).sum() * factor).backward()
            one.step()
            moved[optimizer.kind, factor] = (one.weight - before).abs().sum()
    torch.testing.assert_close(moved["SGD", 2.0], 2 * moved["SGD", 1.0])
    torch.testing.assert_close(moved["RowwiseAdagrad", 2.0], moved["RowwiseAdagrad", 1.0], rtol=1e-4, atol=0)


def test_duplicate_ids_make_one_update_with_the_summed_gradient() -> None:
    twice, once = table(SGD), table(SGD)
    twice(torch.tensor([5, 5])).sum().backward()
    (2 * once(torch.tensor([5]))).sum().backward()
    twice.step()
    once.step()
    assert torch.equal(twice.weight, once.weight)


@pytest.mark.parametrize("optimizer", [ADAGRAD, None])
def test_a_strided_view_of_ids_reads_the_right_rows(optimizer: TableOptimizer | None) -> None:
    one, ids = table(optimizer), torch.arange(20)
    assert torch.equal(one(ids[::2]), one.weight[ids[::2]])
    grid = torch.arange(20).view(4, 5).t()
    assert torch.equal(one(grid), one.weight[grid])


def test_gradients_of_strided_ids_reach_the_right_rows() -> None:
    one = table(SGD)
    before = one.weight.clone()
    one(torch.arange(20)[1::2]).sum().backward()
    one.step()
    moved = (one.weight != before).any(1)
    assert moved.nonzero().flatten().tolist() == list(range(1, 20, 2))


def test_strided_ids_and_gradients_are_packed_before_the_fused_update_reads_them() -> None:
    one, packed = table(SGD), table(SGD)
    ids, gradients = torch.arange(1, 21), torch.arange(20 * DIM).view(DIM, 20).float().t()
    one._update(ids[::2], gradients[::2])
    packed._update(ids[::2].clone(), gradients[::2].clone(memory_format=torch.contiguous_format))
    assert torch.equal(one.weight, packed.weight)
    assert (one.weight != table(SGD).weight).any(1).nonzero().flatten().tolist() == list(range(1, 21, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_gradient_that_is_not_finite_stops_the_update_and_leaves_the_table_alone(bad: float) -> None:
    one = table()
    learn(one, draws(1)[0], torch.zeros(ROWS, DIM))
    weight, state = one.weight.clone(), one.optimizer_state()["momentum1"].clone()
    (one(torch.tensor([1, 2, 3])) * torch.tensor([1.0, bad, 1.0])[:, None]).sum().backward()
    with pytest.raises(RecastError, match='gradient of table "items" is not finite') as caught:
        one.step()
    assert caught.value.termination.reason == "NotFinite"
    assert torch.equal(one.weight, weight)
    assert torch.equal(one.optimizer_state()["momentum1"], state)
    learn(one, draws(1)[0], torch.zeros(ROWS, DIM))  # the bad lookup is forgotten
    assert torch.isfinite(one.weight).all()


def test_a_large_gradient_is_clipped_where_its_square_is_more_than_float32_can_tell() -> None:
    one = EmbeddingTable("items", 3, 4, SGD).train()
    (one(torch.tensor([1, 2])) * torch.tensor([[3e25, 0.0, 0.0, 0.0], [0.0, 4e25, 0.0, 0.0]])).sum().backward()
    one.step(max_norm=1.0)
    expected = torch.zeros(3, 4)
    expected[1, 0], expected[2, 1] = -0.06, -0.08
    torch.testing.assert_close(one.weight, expected)


def test_the_padding_row_stays_zero() -> None:
    one = table()
    one(torch.zeros(3, dtype=torch.int64)).sum().backward()
    one.step()
    assert not one.weight[0].any()


def test_an_id_outside_the_table_is_named() -> None:
    with pytest.raises(IndexError, match=r"rows 0\.\.39, asked for 40"):
        table()(torch.tensor([1, 40]))


@pytest.mark.parametrize("place", [-1, -40])
def test_a_negative_id_does_not_count_from_the_end(place: int) -> None:
    with pytest.raises(IndexError, match=r"rows 0\.\.39"):
        table()(torch.tensor([1, place]))


def test_no_ids_at_all_are_no_error() -> None:
    assert table()(torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0, DIM)


def test_a_lookup_without_gradient_leaves_nothing_to_update_and_a_discarded_one_neither() -> None:
    one = table()
    before = one.weight.clone()
    with torch.no_grad():
        assert not one(torch.tensor([1])).requires_grad
    one(torch.tensor([2])).sum().backward()
    one.discard()
    one.step()
    assert torch.equal(one.weight, before)


def test_a_table_without_an_optimiser_cannot_be_stepped() -> None:
    with pytest.raises(RuntimeError, match='table "items" was made without an optimiser'):
        table(None).step()


def test_an_optimiser_state_of_another_table_does_not_fit() -> None:
    with pytest.raises(ValueError, match='state of table "items" does not fit'):
        table().load_optimizer_state({})
    with pytest.raises(ValueError, match="does not fit"):
        table().load_optimizer_state({"momentum1": torch.zeros(ROWS + 1)})
    assert table(SGD).optimizer_state() == {}


def test_evaluation_leaves_nothing_to_update() -> None:
    one = table().eval()
    before = one.weight.clone()
    assert not one(torch.tensor([1])).requires_grad
    one.train().step()
    assert torch.equal(one.weight, before)


def test_weight_is_saved_with_the_module_but_hidden_from_dense_optimisers() -> None:
    one, other = table(), EmbeddingTable("items", ROWS, DIM)
    assert list(one.parameters()) == []
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.weight, one.weight)
    with pytest.raises(RuntimeError, match=r"weight is \(40, 8\), expected \(41, 8\)"):
        EmbeddingTable("items", ROWS + 1, DIM).load_state_dict(one.state_dict())
    with pytest.raises(RuntimeError, match="weight"):
        other.load_state_dict({})


def test_a_table_that_only_looks_up_moves_with_its_module_and_keeps_its_name_in_the_state() -> None:
    table = EmbeddingTable("items", 5, 4)
    moved = torch.nn.Sequential(table).to("meta")
    assert moved[0].weight.is_meta
    assert list(moved.state_dict()) == ["0.weight"]
    assert list(moved.parameters()) == []


@pytest.mark.parametrize("target", ["meta", torch.float64])
def test_a_table_with_an_optimiser_is_not_parted_from_it(target: object) -> None:
    table = EmbeddingTable("items", 5, 4, TableOptimizer())
    module = torch.nn.Sequential(table)
    with pytest.raises(RuntimeError, match='table "items" trains on cpu and cannot be moved'):
        module.to(target)
    module.to("cpu")
    table.train()
    table(torch.tensor([3])).sum().backward()
    table.step()
    assert table.weight[3].abs().sum() > 0  # it still reads what it updates


def test_what_is_exchanged_by_a_rank_without_lookups_is_where_the_table_is() -> None:
    table = EmbeddingTable("items", 5, 4)
    table.to("meta")
    ids, gradients = table._take_pending()
    assert ids.is_meta
    assert gradients.is_meta


def test_a_table_resumes_bit_for_bit_from_weight_and_optimiser_state() -> None:
    straight, target, steps = table(), torch.zeros(ROWS, DIM), draws(6)
    for ids in steps[:3]:
        learn(straight, ids, target)
    resumed = EmbeddingTable("items", ROWS, DIM, ADAGRAD)
    resumed.load_state_dict(straight.state_dict())
    resumed.load_optimizer_state({k: v.clone() for k, v in straight.optimizer_state().items()})
    for ids in steps[3:]:
        learn(straight, ids, target)
        learn(resumed, ids, target)
    assert torch.equal(straight.weight, resumed.weight)
