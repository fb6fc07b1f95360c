"""The block and its stack against the papers' formulas: values and gradients, in float64."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from plain_hstu import PlainRequest, block, bucket
from torch import Tensor

from recast_model.config import Block
from recast_model.hstu import HstuLayer, HstuStack, TokenRows
from recast_model.ops.jagged import JaggedLayout
from recast_model.ops.relative_terms import time_bucket

DIM, HEADS, NORM_LEN, TABLE = 6, 2, 11, 4  # the table of places is shorter than the longest history
LENGTHS, WIDTH, CANDIDATES = (6, 2, 0, 1), 7, 2
CLOSE = {"atol": 1e-11, "rtol": 1e-9}
both_forms = pytest.mark.parametrize("form", get_args(Block))


def rows(requires_grad: bool = True) -> TokenRows:
    g = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    # Small rows among large ones: where eps stands beside a variance, it shows.
    scale = torch.tensor([1.0, 1e-3, 3.0])[torch.arange(total) % 3][:, None]
    history = torch.randn(total, DIM, generator=g, dtype=torch.float64) * scale
    candidates = torch.randn(len(LENGTHS), CANDIDATES, DIM, generator=g, dtype=torch.float64)
    candidates[:, 1] *= 1e-3
    # From seconds to weeks apart, so that pairs fall into many buckets.
    gaps = torch.tensor([5_000, 90_000, 700_000, 7_300_000, 100_000_000, 900_000_000, 0])
    times = 1_767_225_600_000 + gaps.cumsum(0).repeat(len(LENGTHS), 1)
    return TokenRows(
        history=history.requires_grad_(requires_grad),
        candidates=candidates.requires_grad_(requires_grad),
        layout=JaggedLayout.of(torch.tensor(LENGTHS), WIDTH),
        history_times=times * (torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]),
        request_times=1_767_225_600_000 + 1_008_095_000 + torch.tensor([0, 40_000, 5, 3_000_000]),
    )


def plain(given: TokenRows) -> list[PlainRequest]:
    ends = list(itertools.accumulate(LENGTHS))
    return [
        PlainRequest(
            events=[given.history[i] for i in range(end - length, end)],
            candidates=[given.candidates[b, m] for m in range(CANDIDATES)],
            event_times=given.history_times[b, :length].tolist(),
            time=int(given.request_times[b]),
        )
        for b, (length, end) in enumerate(zip(LENGTHS, ends, strict=True))
    ]


def fill(module: torch.nn.Module, seed: int) -> None:
    """Random values for every parameter: a zero or a one would hide a term."""
    g = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=g) * 0.6 + 0.2)


def layer(form: Block) -> HstuLayer:
    made = HstuLayer(form, DIM, HEADS, NORM_LEN, TABLE, dropout=0.3).double().eval()
    fill(made, 1)
    return made


def gradients(output: Tensor, given: TokenRows, module: torch.nn.Module) -> list[Tensor]:
    """Of a fixed random weighting of the output, by inputs and by every parameter; zeros for what has no part."""
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    wanted = [given.history, given.candidates, *module.parameters()]
    found = torch.autograd.grad((output * weight).sum(), wanted, allow_unused=True)
    return [torch.zeros_like(w) if f is None else f for w, f in zip(wanted, found, strict=True)]


@both_forms
def test_a_block_gives_history_and_candidates_as_the_formula_says(form: Block) -> None:
    made, given = layer(form), rows()
    history, candidates = made(given, last=False)
    expected = [block(made, request, heads=HEADS, norm_len=NORM_LEN) for request in plain(given)]
    expected_history = torch.stack([row for events, _ in expected for row in events])
    expected_candidates = torch.stack([torch.stack(shown) for _, shown in expected])
    torch.testing.assert_close(history, expected_history, **CLOSE)
    torch.testing.assert_close(candidates, expected_candidates, **CLOSE)
    ours = gradients(torch.cat([history, candidates.flatten(0, 1)]), given, made)
    theirs = gradients(torch.cat([expected_history, expected_candidates.flatten(0, 1)]), given, made)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@both_forms
def test_a_last_block_gives_the_same_candidates_and_leaves_history_alone(form: Block) -> None:
    made, given = layer(form), rows()
    history, candidates = made(given, last=True)
    expected = torch.stack(
        [torch.stack(block(made, request, heads=HEADS, norm_len=NORM_LEN)[1]) for request in plain(given)]
    )
    assert history is given.history
    torch.testing.assert_close(candidates, expected, **CLOSE)
    for one, other in zip(gradients(candidates, given, made), gradients(expected, given, made), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@both_forms
def test_a_stack_passes_each_blocks_history_to_the_next(form: Block) -> None:
    stack, given = HstuStack(form, 3, DIM, HEADS, NORM_LEN, TABLE, dropout=0.3).double().eval(), rows()
    fill(stack, 2)
    expected = []
    for request in plain(given):
        for made in stack.layers:
            assert isinstance(made, HstuLayer)
            events, candidates = block(made, request, heads=HEADS, norm_len=NORM_LEN)
            request = PlainRequest(events, candidates, request.event_times, request.time)
        expected.append(torch.stack(request.candidates))
    torch.testing.assert_close(stack(given), torch.stack(expected), **CLOSE)
    ours, theirs = gradients(stack(given), given, stack), gradients(torch.stack(expected), given, stack)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7)


@both_forms
@torch.no_grad()
def test_dropout_acts_on_what_the_output_projection_reads_and_on_nothing_else(form: Block) -> None:
    made, given = layer(form), rows(requires_grad=False)
    seen: list[tuple[int, ...]] = []

    def drop_all(_module: object, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
        seen.append(tuple(inputs[0].shape))
        return torch.zeros_like(inputs[0])

    made.dropout.register_forward_hook(drop_all)
    history, candidates = made(given, last=False)
    rest = torch.zeros(DIM, dtype=torch.float64) if made.output.bias is None else made.output.bias
    torch.testing.assert_close(history, given.history + rest, **CLOSE)
    torch.testing.assert_close(candidates, given.candidates + rest, **CLOSE)
    joined = DIM if form == "Research" else 3 * DIM
    assert sorted(seen) == sorted([(len(LENGTHS) * CANDIDATES, joined), (sum(LENGTHS), joined)])


def test_each_form_has_the_parameters_of_its_paper() -> None:
    shapes = {
        form: {name: tuple(p.shape) for name, p in HstuLayer(form, DIM, HEADS, NORM_LEN, TABLE, 0.0).named_parameters()}
        for form in get_args(Block)
    }
    terms = {"bias.position": (TABLE + 1, HEADS), "bias.time": (32, HEADS)}
    assert shapes["Research"] == terms | {
        "project.weight": (4 * DIM, DIM), "output.weight": (DIM, DIM), "output.bias": (DIM,),
    }  # fmt: skip
    assert shapes["DLRMv3"] == terms | {
        "norm.weight": (DIM,), "norm.bias": (DIM,), "project.weight": (4 * DIM, DIM), "project.bias": (4 * DIM,),
        "attended_norm.weight": (DIM,), "attended_norm.bias": (DIM,), "output.weight": (DIM, 3 * DIM),
    }  # fmt: skip


def test_the_terms_of_place_and_time_start_at_zero() -> None:
    made = HstuLayer("Research", DIM, HEADS, NORM_LEN, TABLE, 0.0)
    assert not made.bias.position.any()
    assert not made.bias.time.any()


@pytest.mark.parametrize("number", range(1, 32))
def test_a_time_bucket_begins_at_the_power_of_the_root_of_two_that_its_number_says(number: int) -> None:
    edge = (2 ** (number / 2) - 1) * 60_000
    slack = 1 + edge * 1e-6  # float32 holds minutes to seven digits
    below, above = int(edge - slack), int(edge + slack) + 1
    assert time_bucket(torch.tensor([below, above])).tolist() == [number - 1, number]
    assert (bucket(below), bucket(above)) == (number - 1, number)


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(-(10**12), 0), (-1, 0), (0, 0), (59_999, 1), (60_000, 2), (179_999, 3), (180_000, 4), (10**10, 31), (10**15, 31)],
)
def test_elapsed_times_at_and_beyond_the_edges_have_a_bucket(milliseconds: int, expected: int) -> None:
    assert time_bucket(torch.tensor([milliseconds])).tolist() == [expected]


def test_the_last_bucket_begins_after_about_a_month() -> None:
    days = (2**15.5 - 1) / 60 / 24
    assert 28 < days < 33
    assert time_bucket(torch.tensor([int(days * 86_400_000) + 60_000])).item() == 31
