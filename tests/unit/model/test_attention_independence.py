"""What a row of the block may depend on: the rules that leak-freedom and reuse rest on."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from model_builders import HISTORY, batch, foundation, only, widen
from torch import Tensor

from recast_model.config import Block
from recast_model.hstu import HstuLayer, TokenRows
from recast_model.ops.jagged import JaggedLayout

both_forms = pytest.mark.parametrize("block", get_args(Block))


def block_rows(seed: int, lengths: list[int], width: int, dim: int = 16, candidates: int = 3) -> TokenRows:
    g = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    layout = JaggedLayout.of(sizes, width)
    times = torch.randint(0, 86_400_000, (len(lengths), width), generator=g).sort(1).values
    return TokenRows(
        history=torch.randn(int(sizes.sum()), dim, generator=g),
        candidates=torch.randn(len(lengths), candidates, dim, generator=g),
        layout=layout,
        history_times=times,
        request_times=torch.full((len(lengths),), 90_000_000),
    )


def layer(block: Block, norm_len: int = 16) -> HstuLayer:
    torch.manual_seed(4)
    made = HstuLayer(block, 16, 2, norm_len, 16, dropout=0.0)
    torch.nn.init.normal_(made.bias.position, std=0.5)
    torch.nn.init.normal_(made.bias.time, std=0.5)
    return made.eval()


@both_forms
@torch.no_grad()
def test_a_candidate_changes_by_exactly_nothing_when_the_others_change(block: Block) -> None:
    model, one = foundation(block), batch()
    candidates = one.candidates.clone()
    candidates[:, 1:] = (candidates[:, 1:] % 50) + 1
    other = replace(one, candidates=candidates)
    assert not torch.equal(one.candidates, other.candidates)
    assert torch.equal(model.tae(one)[:, 0], model.tae(other)[:, 0])
    assert not torch.allclose(model.tae(one)[:, 1:], model.tae(other)[:, 1:])


@both_forms
@torch.no_grad()
def test_a_history_row_sees_nothing_later_and_no_candidate(block: Block) -> None:
    rows, made = block_rows(0, [8], 8), layer(block)
    changed = rows.history.clone()
    changed[5:] += 1.0
    before, _ = made(rows, last=False)
    after, _ = made(replace(rows, history=changed, candidates=rows.candidates + 1), last=False)
    assert torch.equal(before[:5], after[:5])
    assert not torch.allclose(before[5:], after[5:])


@both_forms
@torch.no_grad()
def test_a_history_row_does_not_depend_on_when_the_request_comes(block: Block) -> None:
    rows, made = block_rows(0, [8], 8), layer(block)
    later = replace(rows, request_times=rows.request_times + 7_200_000)
    assert torch.equal(made(rows, last=False)[0], made(later, last=False)[0])
    assert not torch.allclose(made(rows, last=False)[1], made(later, last=False)[1])


@both_forms
@torch.no_grad()
def test_a_candidate_sees_every_event_of_its_own_history_and_of_no_other(block: Block) -> None:
    model, one = foundation(block), batch()
    for place in (0, HISTORY // 2, HISTORY - 1):
        items = one.history_items.clone()
        items[0, place] = items[0, place] % 50 + 1
        before, after = model.tae(one), model.tae(replace(one, history_items=items))
        assert not torch.allclose(before[0], after[0])
        assert torch.equal(before[1:], after[1:])


@both_forms
@torch.no_grad()
def test_padding_does_not_change_a_result(block: Block) -> None:
    model, one = foundation(block, history_length=40), batch()
    torch.testing.assert_close(model.tae(one), model.tae(widen(one, 20)), atol=1e-6, rtol=1e-5)
    alone = model.tae(only(one, 2))
    torch.testing.assert_close(model.tae(one)[2:3], alone, atol=1e-6, rtol=1e-5)


@both_forms
@torch.no_grad()
def test_the_divisor_is_the_configured_constant_and_never_the_batch(block: Block) -> None:
    rows = block_rows(0, [3], 3)
    wide = replace(
        rows,
        layout=JaggedLayout.of(torch.tensor([3]), 9),
        history_times=torch.nn.functional.pad(rows.history_times, (0, 6)),
    )
    same, padded = layer(block)(rows, last=False), layer(block)(wide, last=False)
    torch.testing.assert_close(same, padded, atol=1e-6, rtol=1e-5)
    assert layer(block, 16).attn_norm_len == 16


@both_forms
@torch.no_grad()
def test_pruning_the_last_layer_is_exact(block: Block) -> None:
    rows, made = block_rows(1, [8, 3, 0], 8), layer(block)
    history, candidates = made(rows, last=True)
    torch.testing.assert_close(candidates, made(rows, last=False)[1], atol=1e-6, rtol=1e-5)
    assert history is rows.history


@both_forms
@pytest.mark.parametrize("norm_len", [64, 1024, 8192])
@torch.no_grad()
def test_a_history_of_one_event_is_normed_as_fully_as_a_long_one(block: Block, norm_len: int) -> None:
    made = layer(block, norm_len)
    seen: list[Tensor] = []
    made.attended_norm.register_forward_hook(lambda _m, _i, out: seen.append(out))
    made(block_rows(2, [1], 1), last=True)
    rms = seen[0].pow(2).mean(-1).sqrt()
    assert (rms > 0.9).all(), rms


@both_forms
def test_gradients_of_packed_rows_agree_with_finite_differences(block: Block) -> None:
    made = layer(block).double()
    rows = block_rows(3, [3, 0, 2], 4, candidates=2)
    history = rows.history.double().requires_grad_()
    candidates = rows.candidates.double().requires_grad_()

    def run(h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return made(replace(rows, history=h, candidates=c), last=False)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (history, candidates), atol=1e-5)
