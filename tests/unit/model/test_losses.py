"""The losses against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from model_builders import batch
from torch import Tensor

from recast_model import losses
from recast_model.batch import RequestBatch
from recast_model.foundation import FoundationOutput
from recast_model.losses import expert_loss, foundation_loss, masked_bce_sum

LN2, LN3 = math.log(2), math.log(3)


def labelled(labels: Tensor, label_mask: Tensor, candidate_mask: Tensor) -> RequestBatch:
    """Two requests of two candidates; three tasks."""
    one = batch(size=2, candidates=2)
    return replace(one, labels=labels, label_mask=label_mask, candidate_mask=candidate_mask)


def by_hand() -> tuple[FoundationOutput, RequestBatch]:
    """Logits of ln 3 (probability 3/4) and 0; the sums are then logarithms of small whole numbers.

    Valid labels: (0, 0, task 0) positive, (0, 0, task 1) negative, (1, 1, task 2) positive. Not valid: a task without a
    label, and a whole candidate that is padding although its labels claim to be there.
    """
    logits, aux = torch.full((2, 2, 3), 50.0), torch.full((2, 2, 3), -50.0)
    logits[0, 0, 0], logits[0, 0, 1], logits[1, 1, 2] = LN3, LN3, 0.0  # ln 4/3, ln 4, ln 2
    aux[0, 0, 0], aux[0, 0, 1], aux[1, 1, 2] = 0.0, 0.0, -LN3  # ln 2, ln 2, ln 4
    labels, mask = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3, dtype=torch.bool)
    labels[0, 0, 0] = labels[1, 1, 2] = labels[0, 1, 0] = 1.0
    mask[0, 0, :2] = mask[1, 1, 2] = mask[0, 1, :] = True
    candidates = torch.tensor([[True, False], [True, True]])
    return FoundationOutput(torch.zeros(2, 2, 8), logits, aux), labelled(labels, mask, candidates)


MAIN = math.log(4 / 3) + math.log(4) + LN2
AUX = 2 * LN2 + math.log(4)


def test_the_foundations_loss_is_main_plus_a_fifth_of_the_alignment_over_the_valid_labels() -> None:
    output, one = by_hand()
    found = foundation_loss(output, one)
    assert float(found.total) == pytest.approx((MAIN + 0.2 * AUX) / 3, rel=1e-6)
    assert float(found.main_sum) == pytest.approx(MAIN, rel=1e-6)
    assert int(found.valid) == 3
    assert float(foundation_loss(output, one, aux_weight=0.0).total) == pytest.approx(MAIN / 3, rel=1e-6)


def test_an_experts_loss_reads_its_own_tasks_columns_in_its_own_order() -> None:
    output, one = by_hand()
    # The expert's first task is the data's third, its second the data's first; the data's second is not its own.
    logits = output.logits[..., [2, 0]]
    found = expert_loss(logits, one, (2, 0))
    assert float(found.total) == pytest.approx((math.log(4 / 3) + LN2) / 2, rel=1e-6)
    assert int(found.valid) == 2


def test_a_row_that_was_drawn_with_a_probability_counts_for_those_that_were_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sum of losses is that of all rows in expectation, and is divided by as many."""
    output, one = by_hand()
    alike = expert_loss(output.logits, one, (0, 1, 2))
    ones = expert_loss(output.logits, one, (0, 1, 2), torch.ones(2, 2))
    assert float(ones.total) == pytest.approx(float(alike.total))
    weights = torch.tensor([[4.0, 1.0], [1.0, 1.0]])
    labels, mask = one.labels, one.label_mask
    assert labels is not None
    assert mask is not None
    valid = mask & one.candidate_mask[..., None]
    each = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels, reduction="none")
    by_row = torch.where(valid, each, 0.0).sum(-1)
    found = expert_loss(output.logits, one, (0, 1, 2), weights)
    assert float(found.main_sum) == pytest.approx(float((by_row * weights).sum()), rel=1e-6)
    assert float(found.valid) == float((valid.sum(-1) * weights).sum())
    assert float(found.total) == pytest.approx(float(found.main_sum / found.valid))
    monkeypatch.setattr(losses, "sum_over_ranks", lambda count: count + 7)
    other = expert_loss(output.logits, one, (0, 1, 2), weights)
    assert float(other.total) == pytest.approx(float(found.main_sum / (found.valid + 7)))


def test_every_rank_divides_by_the_labels_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    output, one = by_hand()
    monkeypatch.setattr(losses, "sum_over_ranks", lambda count: count + 7)  # another rank has seven
    assert float(foundation_loss(output, one).total) == pytest.approx((MAIN + 0.2 * AUX) / 10, rel=1e-6)
    assert float(expert_loss(output.logits, one, (0, 1, 2)).total) == pytest.approx(MAIN / 10, rel=1e-6)
    assert int(foundation_loss(output, one).valid) == 3  # this rank's own, for its log line


def test_a_batch_without_one_valid_label_has_loss_zero_and_gradient_zero() -> None:
    output, one = by_hand()
    none = replace(one, label_mask=torch.zeros(2, 2, 3, dtype=torch.bool))
    logits = output.logits.clone().requires_grad_()
    found = foundation_loss(FoundationOutput(output.tae, logits, output.aux_logits), none)
    assert float(found.total.detach()) == 0.0
    found.total.backward()
    assert logits.grad is not None
    assert not logits.grad.any()
    assert float(expert_loss(output.logits, none, (0, 1, 2)).total) == 0.0


@pytest.mark.parametrize("field", ["labels", "label_mask"])
def test_a_batch_without_labels_cannot_be_learned_from(field: str) -> None:
    output, one = by_hand()
    with pytest.raises(ValueError, match="without labels"):
        foundation_loss(output, replace(one, **{field: None}))


@pytest.mark.parametrize(
    ("logit", "label", "expected"),
    [(0.0, 1.0, LN2), (0.0, 0.0, LN2), (LN3, 1.0, math.log(4 / 3)), (LN3, 0.0, math.log(4)), (-800.0, 1.0, 800.0)],
)
def test_the_log_loss_of_one_label(logit: float, label: float, expected: float) -> None:
    one = masked_bce_sum(torch.tensor([logit, 5.0]), torch.tensor([label, 0.0]), torch.tensor([True, False]))
    assert float(one) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_of_a_sum_is_probability_minus_label() -> None:
    logits = torch.tensor([LN3, LN3, 0.0, 9.0], requires_grad=True)
    masked_bce_sum(logits, torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([True, True, True, False])).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([-0.25, 0.75, -0.5, 0.0]))
