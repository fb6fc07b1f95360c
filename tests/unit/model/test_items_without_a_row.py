"""Items that appeared after a version landed: their content beside the unknown row, and no bit of any other changes."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_builders import CONTENT, ITEMS, batch, expert, foundation

from recast_model.batch import RequestBatch
from recast_model.config import Block
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.incremental import IncrementalFoundation
from recast_model.inference import embed, score
from recast_model.items import ExtendedItems, ItemTable

SHOWN = 43
"""An item that the histories of a batch hold."""
NEW = torch.randn(3, CONTENT, generator=torch.Generator().manual_seed(5))
both_forms = pytest.mark.parametrize("block", get_args(Block))


def kept_and_scored(model: FoundationModel, asked: RequestBatch) -> torch.Tensor:
    """What a server computes, (B, M, tae_dim)."""
    incremental = IncrementalFoundation(model)
    kept = [incremental.room(int(length)) for length in asked.history_lengths]
    return torch.stack(incremental.append_and_score(asked, [0] * len(asked), kept))


def ranked(model: ExpertModel, asked: RequestBatch) -> torch.Tensor:
    tae = torch.randn(len(asked), 9, 8, generator=torch.Generator().manual_seed(6))[:, : asked.candidates.shape[1]]
    return score(model, asked, tae, torch.ones(len(asked), dtype=torch.bool))


def with_items(asked: RequestBatch, old: int, new: int) -> RequestBatch:
    """The batch with an item, wherever it stands, replaced by another."""
    places = {name: getattr(asked, name) for name in ("candidates", "history_items")}
    return replace(asked, **{name: torch.where(items == old, new, items) for name, items in places.items()})


@both_forms
def test_no_bit_of_what_the_version_knows_changes_with_items_behind_it(block: Block) -> None:
    asked = with_items(batch(8, 6), 7, 0)  # an unknown one is among them
    plain, one = foundation(block), expert(block)
    before = [embed(plain, asked), kept_and_scored(plain, asked), ranked(one, asked)]
    for model in (plain, one):
        model.tokens.extend(NEW)
    assert_same_bytes(before, [embed(plain, asked), kept_and_scored(plain, asked), ranked(one, asked)])
    beside = replace(
        asked,
        candidates=torch.cat([asked.candidates, torch.full((8, 1), ITEMS + 2)], 1),
        candidate_mask=torch.ones(8, 7, dtype=torch.bool),
    )
    whole, incremental, scored = embed(plain, beside), kept_and_scored(plain, beside), ranked(one, beside)
    for found, expected in zip((whole.float(), incremental, scored), before, strict=True):
        torch.testing.assert_close(found[:, :6], expected.to(found.dtype), atol=1e-5, rtol=2**-9)
    for model in (plain, one):
        model.tokens.extend(NEW[:0])
    assert_same_bytes(before, [embed(plain, asked), kept_and_scored(plain, asked), ranked(one, asked)])


def assert_same_bytes(before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    for one, other in zip(before, after, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()


@both_forms
def test_an_item_without_a_row_is_its_content_and_the_unknown_rows_id(block: Block) -> None:
    """As a known item whose content is the same and whose own row is the unknown one's, in every part of a request."""
    known = batch(8, 6, seed=4)
    known = replace(known, candidates=torch.cat([known.candidates[:, :5], torch.full((8, 1), SHOWN)], 1))
    assert (known.history_items == SHOWN).any()
    for model, found_by in ((foundation(block), (embed, kept_and_scored)), (expert(block), (ranked,))):
        model.tokens.extend(NEW)
        found = [by(model, with_items(known, SHOWN, ITEMS + 1 + 2)) for by in found_by]
        with torch.no_grad():
            model.tokens.content[SHOWN] = NEW[2]
            model.tokens.items.weight[SHOWN] = model.tokens.items.weight[0]
        assert_same_bytes(found, [by(model, known) for by in found_by])


def test_two_new_items_score_by_their_content_and_not_alike() -> None:
    one, asked = expert(), replace(batch(1, 3), candidates=torch.tensor([[ITEMS + 1, ITEMS + 2, 0]]))
    model = foundation()
    for extended in (one, model):
        extended.tokens.extend(NEW)
    for rows in (embed(model, asked)[0], ranked(one, asked)[0]):
        assert len(rows.unique(dim=0)) == 3


@pytest.mark.parametrize("new", [None, NEW])
def test_an_item_that_neither_the_table_nor_its_extension_has_is_an_error(new: torch.Tensor | None) -> None:
    model = foundation()
    if new is not None:
        model.tokens.extend(new)
    asked = replace(batch(), candidates=torch.full((5, 4), ITEMS + 1 + (0 if new is None else len(new))))
    with pytest.raises(IndexError):
        embed(model, asked)


@pytest.mark.parametrize(
    ("model", "new"),
    [(foundation(), NEW[:, :2]), (foundation(), NEW[0]), (foundation(content_dim=CONTENT).train(), NEW)],
    ids=["another length", "no rows", "in training"],
)
def test_what_does_not_fit_a_version_does_not_extend_it(model: FoundationModel, new: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        model.tokens.extend(new)


def test_a_version_without_content_has_nothing_to_know_new_items_by() -> None:
    torch.manual_seed(1)
    config = replace(foundation().config, content_dim=0)
    with pytest.raises(ValueError, match="expected"):
        FoundationModel(config, torch.zeros(ITEMS + 1, 0)).eval().tokens.extend(torch.zeros(2, 0))


def table(*ids: int) -> ItemTable:
    return ItemTable(np.array(ids, np.int64), np.arange(len(ids), dtype=np.float32)[:, None])


@given(
    own=st.sets(st.integers(0, 30), max_size=12),
    listed=st.sets(st.integers(0, 30), max_size=12),
    asked=st.lists(st.integers(-1, 31), max_size=20),
)
@settings(max_examples=200)
def test_dense_indices_of_new_items_follow_those_of_the_version_which_stay(
    own: set[int], listed: set[int], asked: list[int]
) -> None:
    first, second = table(*sorted(own)), table(*sorted(listed))
    new = second.without(first)
    assert new.ids.tolist() == sorted(listed - own)
    assert new.content[:, 0].tolist() == [sorted(listed).index(item) for item in sorted(listed - own)]
    order = [*sorted(own), *sorted(listed - own)]
    expected = [order.index(item) + 1 if item in order else 0 for item in asked]
    assert ExtendedItems(first, new).index(np.array(asked, np.int64)).tolist() == expected
