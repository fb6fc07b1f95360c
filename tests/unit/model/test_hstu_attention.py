"""The blocked attention against its reference, and that it computes and holds no more than it should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from recast_model.ops.hstu_attention import BLOCK, QKV, hstu_attention
from recast_model.ops.hstu_attention_reference import hstu_attention_reference
from recast_model.ops.jagged import JaggedLayout
from recast_model.ops.relative_terms import TIME_BUCKETS, RelativeTerms, time_bucket

HEADS, DIM = 2, 6
OPTIONS = {"heads": HEADS, "scale": 0.7, "attn_norm_len": 9}
edges = st.sampled_from([0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 3])


class Given:
    """Rows, tables and times for histories of these lengths."""

    def __init__(
        self, lengths: list[int], width: int, *, candidates: int = 2, places: int = 300, history_queries: bool = True
    ) -> None:
        g = torch.Generator().manual_seed(sum(lengths) + width)

        def leaf(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).requires_grad_()

        size, rows = len(lengths), sum(lengths)
        self.layout = JaggedLayout.of(torch.tensor(lengths, dtype=torch.int64), width)
        self.history = QKV(leaf(rows, DIM) if history_queries else None, leaf(rows, DIM), leaf(rows, DIM))
        self.candidates = QKV(*(leaf(size, candidates, DIM) for _ in range(3)))
        real = torch.arange(width) < torch.tensor(lengths, dtype=torch.int64)[:, None]
        times = 10**12 + torch.randint(0, 10**8, (size, width), generator=g)  # in no order, as labels arrive late
        self.terms = RelativeTerms(
            leaf(places, HEADS), leaf(TIME_BUCKETS, HEADS), times * real, 10**12 + 2 * 10**7 * torch.arange(size)
        )

    def leaves(self) -> list[Tensor]:
        rows = (getattr(kind, name) for kind in (self.history, self.candidates) for name in ("q", "k", "v"))
        return [row for row in rows if row is not None] + [self.terms.position, self.terms.time]

    def run(self, function: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs, and gradients of a fixed weighting of them by every leaf."""
        outputs = [
            out
            for out in function(self.history, self.candidates, self.layout, self.terms, **OPTIONS)
            if out is not None
        ]
        loss = sum((out * (1 + torch.arange(out.numel()).view(out.shape) % 7)).sum() for out in outputs)
        assert isinstance(loss, Tensor)
        return outputs, list(torch.autograd.grad(loss, self.leaves()))


def assert_agrees(case: Given) -> None:
    for ours, theirs in zip(case.run(hstu_attention), case.run(hstu_attention_reference), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            largest = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
            torch.testing.assert_close(one / largest, other / largest, atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.lists(edges, min_size=1, max_size=4), st.integers(0, 5), st.integers(1, 3), st.booleans())
def test_values_and_gradients_are_the_references_for_histories_of_any_lengths(
    lengths: list[int], padding: int, candidates: int, history_queries: bool
) -> None:
    width = max(lengths) + padding
    assert_agrees(Given(lengths, width, candidates=candidates, history_queries=history_queries))


def test_distances_beyond_the_table_take_its_last_row_across_blocks_too() -> None:
    assert_agrees(Given([BLOCK + 5, 3], BLOCK + 5, places=4))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_a_batch_without_history_or_without_requests_has_results_of_its_shape(lengths: list[int]) -> None:
    case = Given(lengths, 0)
    (past, asked), gradients = case.run(hstu_attention)
    assert past.shape == (0, DIM)
    assert asked.shape == (len(lengths), 2, DIM)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_request_alone_has_what_it_has_beside_longer_and_shorter_ones() -> None:
    whole = Given([3, BLOCK + 1, 0, 9], BLOCK + 1)
    together, asked = hstu_attention(whole.history, whole.candidates, whole.layout, whole.terms, **OPTIONS)
    assert together is not None
    past = QKV(*(None if rows is None else rows[-9:] for rows in (whole.history.q, whole.history.k, whole.history.v)))
    own = QKV(*(rows[3:] for rows in (whole.candidates.q, whole.candidates.k, whole.candidates.v) if rows is not None))
    terms = replace(
        whole.terms, history_times=whole.terms.history_times[3:, :9], request_times=whole.terms.request_times[3:]
    )
    alone, shown = hstu_attention(past, own, JaggedLayout.of(torch.tensor([9]), 9), terms, **OPTIONS)
    torch.testing.assert_close(together[-9:], alone)
    torch.testing.assert_close(asked[3:], shown)


@given(st.lists(st.integers(-(10**6), 10**11), max_size=40))
def test_a_time_bucket_is_the_formulas_in_float32_and_its_argument_stays_as_it_was(milliseconds: list[int]) -> None:
    elapsed = torch.tensor(milliseconds, dtype=torch.int64)
    minutes = elapsed.clamp(min=0).to(torch.float32) / 60_000
    expected = (torch.log2(1 + minutes) * 2).to(torch.int64).clamp(max=31)
    assert torch.equal(time_bucket(elapsed), expected)
    as_float = elapsed.to(torch.float32)
    assert torch.equal(time_bucket(as_float), expected)
    assert torch.equal(as_float, elapsed.to(torch.float32))


class LargestTensor(TorchDispatchMode):
    """Keeps the size of the largest result of any operation."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for found in result if isinstance(result, tuple) else (result,):
            if isinstance(found, Tensor):
                self.numbers = max(self.numbers, found.untyped_storage().nbytes() // found.element_size())
        return result


def test_neither_pass_holds_more_than_one_block_of_scores_at_a_time() -> None:
    length = 4 * BLOCK
    case = Given([length, length], length, places=length + 1)
    with LargestTensor() as largest:
        case.run(hstu_attention)
    assert largest.numbers <= 2 * HEADS * BLOCK * length
    with LargestTensor() as largest:
        case.run(hstu_attention_reference)
    assert largest.numbers >= 2 * HEADS * length * length


def flops(lengths: list[int]) -> int:
    case = Given(lengths, max(lengths))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hstu_attention(case.history, case.candidates, case.layout, case.terms, **OPTIONS)
    return counter.get_total_flops()


def test_nothing_is_computed_above_the_diagonal_block_or_for_requests_that_have_ended() -> None:
    per_pair = 2 * 2 * DIM  # two products
    blocks = 4 * 5 // 2
    full = per_pair * (blocks * BLOCK * BLOCK + 2 * 4 * BLOCK)
    assert flops([4 * BLOCK]) == full
    one_block = per_pair * (BLOCK * BLOCK + 2 * BLOCK)
    assert flops([1, 4 * BLOCK, BLOCK]) == full + 2 * one_block
