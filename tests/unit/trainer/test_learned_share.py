"""How much of what an expert learns counts beside its foundation's heads: what is measured, and what is made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from trainer_builders import DATASET, ITEMS, expert_config, hand_rows, requests_of, stream_of

from recast_model.batch import RequestBatch
from recast_model.config import ExpertTask
from recast_model.expert import ExpertModel
from recast_model.inference import score
from recast_trainer.training import share as learned_share
from recast_trainer.training.process_group import ProcessGroup
from recast_trainer.training.share import SHARES, ShareSearch
from recast_trainer.training.stream import on_device


def expert() -> ExpertModel:
    """An expert of two tasks, in the other order than the data's, in which everything says something."""
    torch.manual_seed(3)
    config = replace(expert_config(), tasks=(ExpertTask("like"), ExpertTask("click")), dropout=0.5, tae_dropout=0.5)
    model = ExpertModel(config, torch.from_numpy(ITEMS.content_matrix()))
    for parameter in (*model.heads.parameters(), *model.foundation_heads.parameters()):
        torch.nn.init.normal_(parameter)
    return model.train()


def some() -> tuple[RequestBatch, torch.Tensor, torch.Tensor]:
    """Requests with their TAE, of which one has none, one label is not known, and one candidate is padding."""
    batch = on_device(requests_of(stream_of(hand_rows(1, 6), 1), surface=1), ITEMS, ProcessGroup())
    assert batch.label_mask is not None
    batch.label_mask[1, 0, 1] = False
    batch.candidate_mask[2, 1] = False
    tae = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(5)).half()
    tae[0] = float("nan")
    return batch, tae, torch.tensor([False, True, True])


def test_the_loss_at_a_share_is_that_of_the_model_which_serves_with_it() -> None:
    model, (batch, tae, present) = expert(), some()
    search = ShareSearch(2)
    search.add(model, batch, tae, present)
    assert search.sums[:, 0].tolist() == [2.0, 3.0]  # without the request that has no TAE, the label and the padding
    for place, share in enumerate(SHARES):
        model.set_learned_share(share.expand(2))
        logits = score(model, batch, tae, present)
        for task, column in enumerate(DATASET.tasks.index(name) for name in ("like", "click")):
            assert batch.labels is not None
            assert batch.label_mask is not None
            counted = batch.label_mask[..., column] & batch.candidate_mask & present[:, None]
            expected = binary_cross_entropy_with_logits(
                logits[..., task][counted], batch.labels[..., column][counted], reduction="sum"
            )
            torch.testing.assert_close(search.sums[task, 1 + place].float(), expected)


def test_batches_add_up_and_all_processes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = expert(), some()
    once, twice = ShareSearch(2), ShareSearch(2)
    once.add(model, *given)
    for _ in range(2):
        twice.add(model, *given)
    assert torch.equal(twice.sums, 2 * once.sums)
    monkeypatch.setattr(learned_share, "sum_over_ranks", lambda tensor: 2 * tensor)
    ranks = ShareSearch(2)
    ranks.add(model, *given)
    assert torch.equal(ranks.sums, twice.sums)


def test_the_model_is_left_in_training_and_without_gradients() -> None:
    model = expert()
    search = ShareSearch(2)
    search.add(model, *some())
    assert model.training
    assert not search.sums.requires_grad


def test_the_share_of_the_least_loss_is_chosen_for_each_task_and_the_heads_alone_in_doubt() -> None:
    search = ShareSearch(3)
    assert search.best().tolist() == [0.0, 0.0, 0.0]  # nothing was counted
    search.sums[0, 1:] = (SHARES - 0.7) ** 2
    search.sums[1, 1:] = SHARES
    search.sums[2, 1:] = -SHARES
    assert search.best().tolist() == pytest.approx([0.7, 0.0, 1.0])


def test_shares_go_from_nothing_to_all_in_tenths() -> None:
    assert SHARES.tolist() == pytest.approx([tenth / 10 for tenth in range(11)])


def test_what_is_said_are_the_shares_with_mean_losses() -> None:
    search = ShareSearch(2)
    search.sums[0] = torch.cat([torch.tensor([4.0]), 2 + (SHARES - 0.5) ** 2])
    said = search.said(["click", "like"])
    assert said == ("click 0.5 (log loss 0.5625 -> 0.5000)  like 0.0 (no label was known in time to tell)")


def test_an_earlier_search_tells_of_tasks_of_which_nothing_was_counted() -> None:
    search, earlier = ShareSearch(2), ShareSearch(2)
    search.sums[0] = torch.cat([torch.tensor([4.0]), SHARES])
    earlier.sums[:] = torch.cat([torch.tensor([9.0]), -SHARES])
    assert search.or_else(earlier).best().tolist() == [0.0, 1.0]
    assert search.or_else(earlier).sums[:, 0].tolist() == [4.0, 9.0]
