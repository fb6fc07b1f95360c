"""Rows of a table spread over ranks: who holds which, and that three ranks make the updates of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from recast_api.run import RecastError
from recast_model import distributed, embeddings
from recast_model.distributed import gather_rows, sum_gradients, sum_over_ranks
from recast_model.embeddings import EmbeddingTable, TableOptimizer
from recast_model.sharding import Route, by_owner, collect_rows, rows_held, rows_of

ROWS, DIM, RANKS, STEPS = 40, 8, 3, 8
MAX_NORM = 2.0
ADAGRAD = TableOptimizer("RowwiseAdagrad", learning_rate=0.1)
NOTHING = torch.empty(0, dtype=torch.int64)


@given(st.integers(1, 60), st.integers(1, 7))
def test_every_row_lies_with_one_rank_and_none_holds_more_than_its_share(rows: int, ranks: int) -> None:
    whole = torch.arange(rows)
    parts = [rows_of(whole, rank, ranks) for rank in range(ranks)]
    assert sorted(torch.cat(parts).tolist()) == list(range(rows))
    assert max(len(part) for part in parts) == rows_held(rows, ranks) == (rows + ranks - 1) // ranks
    for rank, part in enumerate(parts):
        assert all(row % ranks == rank and row // ranks == place for place, row in enumerate(part.tolist()))


@given(st.lists(st.integers(1, 99), unique=True), st.integers(1, 7))
def test_ids_go_owner_after_owner_and_otherwise_stay_as_they_were(ids: list[int], ranks: int) -> None:
    order, counts = by_owner(torch.tensor(ids, dtype=torch.int64), ranks)
    assert counts == [sum(each % ranks == rank for each in ids) for rank in range(ranks)]
    expected = [each for rank in range(ranks) for each in ids if each % ranks == rank]
    assert [ids[place] for place in order.tolist()] == expected


def test_with_one_rank_a_lookup_asks_nobody_and_what_it_sends_stays() -> None:
    ids, rows = torch.tensor([5, 2, 9]), torch.randn(3, DIM)
    route = Route.of(ids, 1)
    assert torch.equal(route.asked, ids)
    assert torch.equal(route.answer(rows), rows)
    ((places, gradients),) = route.to_owners(rows)
    assert torch.equal(places, ids)
    assert torch.equal(gradients, rows)
    assert collect_rows(rows, 3, 1) is rows  # the live tensor, and no copy of a table


@pytest.mark.parametrize("ranks", [1, 2, 3, 50])
def test_a_whole_table_is_loaded_by_any_number_of_ranks(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, squares = torch.randn(ROWS, DIM), torch.rand(ROWS)
    monkeypatch.setattr(embeddings, "world_size", lambda: ranks)
    for rank in range(min(ranks, 3)):
        monkeypatch.setattr(embeddings, "own_rank", lambda rank=rank: rank)
        one = EmbeddingTable("items", ROWS, DIM, ADAGRAD)
        assert one.weight.shape == (-(-ROWS // ranks), DIM)
        one.load_state_dict({"weight": whole.clone()})
        one.load_optimizer_state({"momentum1": squares})
        for place, row in enumerate(range(rank, ROWS, ranks)):
            assert torch.equal(one.weight[place], whole[row])
            assert one._optimizer_rows()["momentum1"].flatten()[place] == squares[row]
        with pytest.raises(RuntimeError, match=r"weight is \(41, 8\), expected \(40, 8\)"):
            one.load_state_dict({"weight": torch.zeros(ROWS + 1, DIM)})
        with pytest.raises(ValueError, match="does not fit"):
            one.load_optimizer_state({"momentum1": torch.zeros(ROWS + 1)})


def test_a_table_that_only_looks_up_is_whole_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "world_size", lambda: pytest.fail("servers have no ranks"))
    one = EmbeddingTable("items", ROWS, DIM)
    assert one.weight.shape == (ROWS, DIM)
    assert one(torch.tensor([39])).shape == (1, DIM)


def draws() -> list[torch.Tensor]:
    """(4, 7) ids for each step: many duplicates, within and over ranks, and padding."""
    g = torch.Generator().manual_seed(1)
    return [torch.randint(0, ROWS // 2, (4, 7), generator=g) for _ in range(STEPS)]


def share(ids: torch.Tensor, rank: int, step: int) -> torch.Tensor:
    """Uneven shares with common rows; of some steps a rank has no id at all."""
    return [ids[:1], ids[1:], ids[:0]][(rank + step) % RANKS]


def target() -> torch.Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(2))


def learn(one: EmbeddingTable, ids: torch.Tensor) -> None:
    """Two lookups of each step, and a third that no loss reads."""
    loss = ((one(ids) - target()[ids]) ** 2).sum() + one(ids[:, ::2]).sum()
    one(ids)
    if ids.numel():
        loss.backward()
    one.step(max_norm=MAX_NORM)


def state(one: EmbeddingTable) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in (one.state_dict() | one.optimizer_state()).items()}


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    distributed.CHUNK_ROWS = 5  # a table travels in several chunks
    one = EmbeddingTable("items", ROWS, DIM, ADAGRAD).train()
    assert one.weight.shape == (14, DIM)
    for step, ids in enumerate(draws()):
        learn(one, share(ids, rank, step))
    found = state(one)
    if rank:
        assert found == {}
    else:
        torch.save(found, f"{folder}/whole.pt")

    # Each rank reads what any rank holds, as often as it likes, and evaluation leaves nothing to update.
    with torch.inference_mode():
        asked = [torch.arange(ROWS), torch.tensor([7, 7, 0]), NOTHING][rank]
        torch.save(one.eval()(asked), f"{folder}/seen-{rank}.pt")
    held = one.weight.clone()
    one.train().step()
    assert torch.equal(one.weight, held)

    # One bad number on one rank stops the update on all of them, and is forgotten.
    squares = one._optimizer_rows()["momentum1"].clone()
    (one(torch.arange(1, 9)) * (float("inf") if rank == 1 else 1.0)).sum().backward()
    with pytest.raises(RecastError, match="not finite"):
        one.step()
    assert torch.equal(one.weight, held)
    assert torch.equal(one._optimizer_rows()["momentum1"], squares)
    one.step()
    assert torch.equal(one.weight, held)

    _sums_and_joins(rank)
    dist.destroy_process_group()


def _sums_and_joins(rank: int) -> None:
    ids, values = gather_rows(torch.arange(rank) + 5, torch.full((rank, 2), float(rank)))
    assert ids.tolist() == [5, 5, 6]
    assert values.tolist() == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    assert len(gather_rows(NOTHING, torch.zeros(0, 2))[0]) == 0
    mine = torch.tensor([1.0, 10.0]) * (rank + 1)
    assert sum_over_ranks(mine).tolist() == [6.0, 60.0]
    assert mine.tolist() == [rank + 1, 10 * (rank + 1)]  # the argument is left as it was
    with_gradient, without, frozen = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    frozen.requires_grad_(False)
    with_gradient.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    without.grad = None if rank else torch.tensor([4.0, 5.0])
    sum_gradients([frozen, with_gradient, without])
    assert frozen.grad is None
    assert with_gradient.grad.tolist() == [6.0, 12.0]
    assert without.grad is not None
    assert without.grad.tolist() == [4.0, 5.0]


def test_three_ranks_make_the_updates_of_one_and_stop_together(tmp_path: Path) -> None:
    mp.spawn(_rank, (str(tmp_path),), nprocs=RANKS)
    alone = EmbeddingTable("items", ROWS, DIM, ADAGRAD).train()
    for ids in draws():
        # The same losses as the shares': two lookups of everything, the second of every other column.
        learn(alone, ids)
    expected, found = state(alone), torch.load(tmp_path / "whole.pt", weights_only=True)
    assert expected.keys() == found.keys() == {"weight", "momentum1"}
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5)
    assert found["weight"].abs().max() > 0.1
    assert not found["weight"][0].any()
    seen = [torch.load(tmp_path / f"seen-{rank}.pt", weights_only=True) for rank in range(RANKS)]
    assert torch.equal(seen[0], found["weight"])
    assert torch.equal(seen[1], found["weight"][[7, 7, 0]])
    assert seen[2].shape == (0, DIM)
