"""Keys and values that are kept give what a whole forward pass gives, however they came about."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_builders import HISTORY, batch, foundation, only

from recast_model import incremental
from recast_model.batch import RequestBatch
from recast_model.config import Block
from recast_model.context import ContextFeature
from recast_model.foundation import FoundationModel
from recast_model.incremental import IncrementalFoundation, KeyValues
from recast_model.inference import embed
from recast_model.ops import cached_attention

both_forms = pytest.mark.parametrize("block", get_args(Block))
EXACT = 1e-5
LAYERS = 3
MODELS = {block: foundation(block, layers=LAYERS) for block in get_args(Block)}


def until(whole: RequestBatch, lengths: list[int]) -> RequestBatch:
    """The same requests when so many events were known; what came later is not even padding."""
    sizes = torch.tensor(lengths)
    width = int(sizes.max()) if len(sizes) else 0
    valid = torch.arange(width) < sizes[:, None]
    names = ("history_items", "history_surfaces", "history_actions", "history_times")
    return replace(whole, history_lengths=sizes, **{name: getattr(whole, name)[:, :width] * valid for name in names})


def rooms(model: IncrementalFoundation, asked: RequestBatch, spare: int = 0) -> list[KeyValues]:
    """Room for each window, full of values that would spoil whatever read them."""
    found = [model.room(int(length) + spare) for length in asked.history_lengths]
    for room in found:
        room.keys.fill_(1e4)
        room.values.fill_(1e4)
    return found


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=0.0)


@torch.inference_mode()
def whole(model: FoundationModel, asked: RequestBatch) -> list[torch.Tensor]:
    """What the full forward gives for the candidates that are none of padding."""
    return [rows[mask] for rows, mask in zip(model.tae(asked), asked.candidate_mask, strict=True)]


@given(data=st.data(), block=st.sampled_from(get_args(Block)), seed=st.integers(0, 1000))
@settings(max_examples=80)
def test_any_split_of_histories_and_candidates_gives_what_a_whole_forward_gives(
    data: st.DataObject, block: Block, seed: int
) -> None:
    size, count = data.draw(st.integers(1, 4), "requests"), data.draw(st.integers(1, 6), "candidates")
    lengths = data.draw(st.lists(st.integers(0, HISTORY), min_size=size, max_size=size), "lengths")
    shown = data.draw(st.lists(st.integers(0, count), min_size=size, max_size=size), "shown")
    asked = until(batch(size, count, seed=seed), lengths)
    asked = replace(asked, candidate_mask=torch.arange(count) < torch.tensor(shown)[:, None])
    incremental_model = IncrementalFoundation(MODELS[block])
    kept = rooms(incremental_model, asked, spare=data.draw(st.integers(0, 3), "spare"))
    sizes = {name: data.draw(st.integers(1, 5), name) for name in ("rows", "queries", "keys")}
    with (
        mock.patch.object(incremental, "QUERIES", sizes["queries"]),
        mock.patch.object(cached_attention, "KEYS", sizes["keys"]),
    ):
        known = [0] * size
        for _ in range(data.draw(st.integers(0, 3), "appends")):
            reached = [data.draw(st.integers(before, length)) for before, length in zip(known, lengths, strict=True)]
            incremental_model.append(until(asked, reached), known, kept, sizes["rows"])
            known = reached
        if data.draw(st.booleans(), "apart"):
            incremental_model.append(asked, known, kept, sizes["rows"])
            found = incremental_model.score(asked, kept, data.draw(st.integers(1, 7), "rows of candidates"))
        else:
            found = incremental_model.append_and_score(
                asked, known, kept, data.draw(st.integers(1, 40), "rows of both")
            )
    for own, expected in zip(found, whole(MODELS[block], asked), strict=True):
        assert_same(own, expected)


@both_forms
def test_a_long_history_is_kept_in_blocks_as_exactly(block: Block) -> None:
    model = foundation(block, history_length=700, attn_norm_len=700)
    asked = batch(3, 40, history=700, seed=3)
    incremental_model = IncrementalFoundation(model)
    kept = rooms(incremental_model, asked)
    known = [0, int(asked.history_lengths[1]) // 2, 0]
    incremental_model.append(until(asked, known), [0, 0, 0], kept)
    incremental_model.append(asked, known, kept)
    for own, expected in zip(incremental_model.score(asked, kept), whole(model, asked), strict=True):
        assert_same(own, expected)


@both_forms
def test_embeddings_are_those_of_the_log_pass_to_the_last_place_of_float16(block: Block) -> None:
    model, asked = MODELS[block], batch()
    incremental_model = IncrementalFoundation(model)
    kept = rooms(incremental_model, asked)
    incremental_model.append(asked, [0] * len(asked), kept)
    found = torch.stack(incremental_model.score(asked, kept)).half()
    logged = embed(model, asked)
    torch.testing.assert_close(found, logged, atol=1e-4, rtol=2**-10)
    assert (found == logged).float().mean() > 0.99


def test_a_window_that_ends_earlier_or_differs_from_some_event_on_needs_no_new_beginning() -> None:
    model = IncrementalFoundation(MODELS["DLRMv3"])
    asked = only(batch(2, 4, seed=8), 0)
    (room,) = rooms(model, asked)
    model.append(asked, [0], [room])
    earlier = until(asked, [5])
    (found,) = model.score(earlier, [room])
    assert_same(found, whole(model.model, earlier)[0])

    actions = asked.history_actions.clone()
    actions[0, 7] ^= 1  # a label that came late
    changed = replace(asked, history_actions=actions)
    assert not torch.allclose(whole(model.model, changed)[0], whole(model.model, asked)[0], atol=1e-4)
    model.append(changed, [7], [room])
    assert_same(model.score(changed, [room])[0], whole(model.model, changed)[0])


def test_requests_of_other_times_surfaces_and_contexts_share_what_is_kept() -> None:
    features = (ContextFeature("country", "Categorical", ("de", "fr")), ContextFeature("price", "Numeric"))
    model = foundation("Research", context=features)
    assert model.tokens.request_context is not None
    with torch.no_grad():
        for parameter in model.tokens.request_context.parameters():
            parameter.normal_(std=0.5)
    incremental_model = IncrementalFoundation(model)
    one = replace(only(batch(), 0), context_values=torch.tensor([[1]]), context_numbers=torch.tensor([[0.5]]))
    kept = rooms(incremental_model, one)
    incremental_model.append(one, [0], kept)
    seen = [whole(model, one)[0]]
    for change in (
        {"request_times": one.request_times + 86_400_000},
        {"surfaces": (one.surfaces + 1) % 3},
        {"context_values": torch.tensor([[2]])},
        {"context_numbers": torch.tensor([[float("nan")]])},
    ):
        other = replace(one, **change)
        expected = whole(model, other)[0]
        assert not any(torch.allclose(expected, before, atol=1e-4) for before in seen)
        assert_same(incremental_model.score(other, kept)[0], expected)
        seen.append(expected)


def test_nothing_is_written_beside_the_room_or_before_what_was_known() -> None:
    model = IncrementalFoundation(MODELS["Research"])
    asked = only(batch(), 0)
    slab = model.room(40)
    slab.keys.fill_(7.0)
    slab.values.fill_(7.0)
    room = KeyValues(slab.keys[:, :, 10:30], slab.values[:, :, 10:30])
    model.append(until(asked, [4]), [0], [room])
    first = room.keys[:, :, :4].clone()
    model.append(asked, [4], [room])
    assert torch.equal(room.keys[:, :, :4], first)
    for kept in (slab.keys, slab.values):
        assert (kept[:, :, :10] == 7).all()
        assert (kept[:, :, 10 + HISTORY :] == 7).all()
        assert not (kept[:, :, 10 : 10 + HISTORY] == 7).any()


def test_no_pass_has_more_rows_or_requests_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "SPANS", 3)
    model = IncrementalFoundation(MODELS["Research"])
    asked = until(batch(6, 5), [HISTORY, 1, 1, 1, 1, 0])
    kept = rooms(model, asked)
    seen: list[int] = []
    hook = model.model.stack.layers[0].project.register_forward_hook(lambda _m, given, _o: seen.append(len(given[0])))  # type: ignore[union-attr]
    model.append(asked, [0] * 6, kept, rows=7)
    assert seen == [7, 5 + 1 + 1, 2]
    seen.clear()
    model.score(asked, kept, rows=7)
    assert seen == [7, 7, 7, 7, 2]
    seen.clear()
    model.score(asked, kept, rows=100)
    assert seen == [15, 15]
    seen.clear()
    model.append_and_score(asked, [HISTORY, 0, 0, 0, 0, 0], kept, rows=100)
    assert seen == [5 + 1 + 5, 1 + 5 + 1, 5 + 1 + 5, 5]
    hook.remove()


def test_what_cannot_be_kept_is_refused() -> None:
    model = IncrementalFoundation(MODELS["Research"])
    asked = only(batch(), 0)
    with pytest.raises(ValueError, match="longer than the room"):
        model.append(asked, [0], [model.room(HISTORY - 1)])
    longer = only(batch(2, history=HISTORY + 1), 0)
    with pytest.raises(ValueError, match="13 events is longer than the version's"):
        model.append(longer, [0], [model.room(HISTORY + 1)])
    with pytest.raises(ValueError, match="evaluation mode"):
        IncrementalFoundation(foundation().train())
