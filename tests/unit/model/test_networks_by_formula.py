"""Tokens, heads and fusion worked out one event and one candidate at a time, against the networks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from model_builders import NOW, batch, content, expert, expert_config, foundation, foundation_config
from plain_hstu import PlainRequest, block, bucket, layer_norm, silu
from torch import Tensor, nn

from recast_model.batch import RequestBatch
from recast_model.config import Block
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.hstu import HstuLayer, HstuStack
from recast_model.inference import TAE_DTYPE, embed, embed_and_predict, score
from recast_model.tokens import TokenEncoder

both_forms = pytest.mark.parametrize("form", get_args(Block))
HOUR, DAY = 3_600_000, 86_400_000


def fill(module: nn.Module) -> None:
    g = torch.Generator().manual_seed(11)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=g) * 0.4 + 0.1)


def linear(made: nn.Linear, x: Tensor) -> Tensor:
    out = torch.stack([row @ x for row in made.weight])
    return out if made.bias is None else out + made.bias


def norm(made: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, 1e-5, made.weight, made.bias)


def context(made: TokenEncoder, item: int, surface: int, time: int, gap: int) -> Tensor:
    """Item id + content + surface + hour of day + time since the event before."""
    first, second = made.content_mlp[0], made.content_mlp[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    content = made.content
    assert isinstance(content, Tensor)
    described = linear(second, silu(linear(first, content[item])))
    hour = time // HOUR % 24
    where = made.surface.weight[surface] + made.hour.weight[hour] + made.gap.weight[bucket(gap)]
    return made.items.weight[item] + described + where


def tokens(made: TokenEncoder, one: RequestBatch, b: int) -> PlainRequest:
    length, now = int(one.history_lengths[b]), int(one.request_times[b])
    times = one.history_times[b, :length].tolist()
    events = []
    for i in range(length):
        gap = times[i] - times[i - 1] if i else 0
        row = context(made, int(one.history_items[b, i]), int(one.history_surfaces[b, i]), times[i], gap)
        row = norm(made.norm, row)
        for task in range(made.action.shape[0]):
            if int(one.history_actions[b, i]) & (1 << task):
                row = row + made.action[task]
        events.append(row)
    gap = now - times[-1] if times else 0
    candidates = [
        norm(made.norm, context(made, int(item), int(one.surfaces[b]), now, gap)) for item in one.candidates[b]
    ]
    return PlainRequest(events, candidates, times, now)


def stacked(stack: HstuStack, request: PlainRequest, norm_len: int) -> list[Tensor]:
    for made in stack.layers:
        assert isinstance(made, HstuLayer)
        events, candidates = block(made, request, heads=2, norm_len=norm_len)
        request = PlainRequest(events, candidates, request.event_times, request.time)
    return request.candidates


def one_batch() -> RequestBatch:
    """Requests over two days with an odd hour each, gaps from nothing to hours, actions of every task."""
    made = batch(size=4, candidates=2, history=6, seed=3)
    lengths = torch.tensor([6, 1, 3, 0])
    real = torch.arange(6) < lengths[:, None]
    steps = torch.tensor([0, 30_000, 61_000, 3 * HOUR, 5 * HOUR + 123, 20 * HOUR])
    times = NOW - DAY - torch.tensor([HOUR - 1, 0, 1, 0])[:, None] + steps.cumsum(0)
    actions = torch.tensor([0, 1, 2, 4, 5, 7])
    return replace(
        made,
        request_times=NOW + torch.tensor([6 * HOUR - 1, 7 * HOUR, 23 * HOUR + 59, 12]),
        history_lengths=lengths,
        history_times=times * real,
        history_actions=actions * real,
        history_items=torch.arange(1, 7) * real,
        history_surfaces=made.history_surfaces * real,
    )


def in_double(model: FoundationModel) -> FoundationModel:
    fill(model)
    return model.double()


@both_forms
def test_the_foundations_embedding_and_both_kinds_of_logits_are_those_of_the_formula(form: Block) -> None:
    model, one = in_double(foundation(form, attn_norm_len=9)), one_batch()
    output = model(one)
    last = model.embed[1]
    final = model.embed[0]
    assert isinstance(last, nn.Linear)
    assert isinstance(final, nn.LayerNorm)
    plain: list[Tensor] = []
    for b in range(4):
        now, surface, length = int(one.request_times[b]), int(one.surfaces[b]), int(one.history_lengths[b])
        angle = 2 * math.pi * (now % DAY) / DAY
        same = sum(int(one.history_surfaces[b, i]) == surface for i in range(length))
        extra = [math.sin(angle), math.cos(angle), math.log(1 + length) / 4, same / max(1, length), 1.0]
        for m, row in enumerate(stacked(model.stack, tokens(model.tokens, one, b), 9)):
            tae = linear(last, norm(final, row))
            aligned = torch.cat([tae, torch.tensor(extra, dtype=torch.float64)]) @ model.align[surface]
            torch.testing.assert_close(output.tae[b, m], tae, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(output.logits[b, m], linear(model.heads, tae), atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(output.aux_logits[b, m], aligned, atol=1e-6, rtol=1e-6)
            plain.append(tae)
    wanted = [parameter for name, parameter in model.named_parameters() if not name.startswith(("heads", "align"))]
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((output.tae.flatten(0, 1) * weight).sum(), wanted)
    theirs = torch.autograd.grad((torch.stack(plain) * weight).sum(), wanted)
    for one_gradient, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one_gradient, other, atol=1e-6, rtol=1e-6)


@both_forms
@torch.no_grad()
def test_an_experts_logits_are_those_of_the_formula_with_tae_and_without(form: Block) -> None:
    model, one = expert(form, attn_norm_len=5), one_batch()
    fill(model)
    share = torch.tensor([0.25, 0.75])
    model.set_learned_share(share)
    tae = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(2))
    present = torch.tensor([True, False, True, True])
    logits = model(one, tae, present)
    first, second = model.fusion[0], model.fusion[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    copy = expert(form, attn_norm_len=5)
    fill(copy)
    copy.double()  # the formula of the block is in float64
    for b in range(4):
        request = tokens(model.tokens, one, b)
        plain = replace(
            request,
            events=[row.double() for row in request.events],
            candidates=[row.double() for row in request.candidates],
        )
        for m, row in enumerate(stacked(copy.stack, plain, 5)):
            given = linear(model.tae_project, norm(model.tae_norm, tae[b, m])) if present[b] else model.absent
            joined = torch.cat([row.float(), given, request.candidates[m]])
            fused = silu(linear(second, silu(linear(first, joined))))
            beside = linear(model.foundation_heads, tae[b, m]) + share * linear(model.heads, fused)
            expected = beside if present[b] else linear(model.absent_heads, fused)
            torch.testing.assert_close(logits[b, m], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_starts_at_random_starts_small_and_the_rest_at_nothing() -> None:
    torch.manual_seed(0)
    made = TokenEncoder(64, torch.randn(50, 6), 40, 30, 0.0, None)
    for name, values in (("surface", made.surface.weight), ("hour", made.hour.weight), ("gap", made.gap.weight)):
        assert values.std().item() == pytest.approx(0.1, rel=0.05), name
    assert made.action.std().item() == pytest.approx(0.1, rel=0.05)
    assert not made.items.weight.any()
    model = FoundationModel(foundation_config(tae_dim=64, surfaces=tuple(map(str, range(30)))), content())
    assert model.align.std().item() == pytest.approx(1 / 8, rel=0.05)
    reader = ExpertModel(expert_config(dim=256), content())
    assert reader.absent.std().item() == pytest.approx(0.1, rel=0.15)


@torch.no_grad()
def test_dropout_of_tokens_comes_after_the_norm_and_the_action() -> None:
    made, one = foundation().tokens, one_batch()
    made.dropout.register_forward_hook(lambda _m, _i, out: torch.zeros_like(out))
    rows = made(one)
    assert not rows.history.any()
    assert not rows.candidates.any()


@torch.no_grad()
def test_dropout_of_an_experts_tae_spares_the_absent_vector() -> None:
    model, one = expert(), one_batch()
    model.tae_dropout.register_forward_hook(lambda _m, _i, out: torch.zeros_like(out))
    zeros, absent = torch.zeros(4, 2, 8), torch.zeros(4, dtype=torch.bool)
    tae = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(2))
    whole = expert()
    assert torch.equal(model(one, zeros, absent), whole(one, zeros, absent))
    learned = model(one, tae, ~absent) - model.foundation_heads(tae)
    torch.testing.assert_close(learned, model(one, -3 * tae, ~absent) - model.foundation_heads(-3 * tae))
    assert not torch.allclose(learned, whole(one, tae, ~absent) - whole.foundation_heads(tae))


@torch.no_grad()
def test_training_hides_the_configured_share_of_taes_by_request_and_evaluation_none() -> None:
    size = 2000
    one = batch(size=size, candidates=2, history=1)
    tae = torch.randn(size, 2, 8, generator=torch.Generator().manual_seed(2))
    present, absent = torch.ones(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    model = expert(tae_dropout=0.25, dropout=0.0)
    without, with_tae = model(one, tae, absent), model(one, tae, present)
    torch.manual_seed(0)
    trained = model.train()(one, tae, present)
    hidden = (trained == without).all(-1).all(-1)
    shown = (trained == with_tae).all(-1).all(-1)
    assert torch.equal(hidden, ~shown)  # a request as a whole, never one of its candidates
    assert 0.21 < hidden.float().mean() < 0.29
    torch.manual_seed(0)
    assert torch.equal(model(one, tae, absent), without)
    never = expert(tae_dropout=0.0, dropout=0.0).train()
    assert torch.equal(never(one, tae, present), with_tae)


@torch.no_grad()
def test_what_is_served_is_the_evaluation_forward_in_half_precision_and_leaves_the_mode_alone() -> None:
    model, one = foundation(dropout=0.5), one_batch()
    expected = model(one)
    model.train()
    tae = embed(model, one)
    assert model.training
    assert tae.dtype == TAE_DTYPE == torch.float16
    assert torch.equal(tae, expected.tae.half())
    same, logits = embed_and_predict(model, one)
    assert torch.equal(same, tae)
    assert torch.equal(logits, expected.logits)
    reader, present = expert(dropout=0.5, tae_dropout=0.5), torch.ones(4, dtype=torch.bool)
    wanted = reader(one, tae.float(), present)
    assert torch.equal(score(reader.train(), one, tae, present), wanted)
    assert isinstance(reader, ExpertModel)
    assert reader.training
    assert not embed(model.eval(), one).requires_grad
    assert not model.training
