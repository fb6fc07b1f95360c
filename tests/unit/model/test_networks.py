"""Foundation and expert as wholes: gradients, absent TAE, losses, configuration and files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from model_builders import (
    HISTORY,
    ITEMS,
    NOW,
    SURFACES,
    batch,
    content,
    expert,
    expert_config,
    foundation,
    foundation_config,
    randomize,
)

from recast_api.manifest import Manifest
from recast_api.run import RecastError
from recast_model.artifact import load_expert, load_foundation, save_model
from recast_model.config import Block, ExpertConfig, ExpertTask, FoundationConfig
from recast_model.embeddings import TableOptimizer
from recast_model.expert import ExpertModel
from recast_model.foundation import FoundationModel
from recast_model.history import History
from recast_model.items import ItemTable
from recast_model.losses import expert_loss, foundation_loss, masked_bce_sum
from recast_model.snapshot import HistorySnapshot

both_forms = pytest.mark.parametrize("block", get_args(Block))


def manifest(kind: str, config: dict[str, Any]) -> Manifest:
    return Manifest(
        kind=kind,  # type: ignore[arg-type]
        model="home-fm",
        uid="u",
        number=1,
        lineage=1,
        created="2026-01-01T00:00:00Z",
        watermark="2026-01-01T00:00:00Z",
        files=[],
        config=config,
        surfaces=[],
        tasks=[],
        job_name="j",
        inputs_hash="h",
    )


@both_forms
def test_every_parameter_of_the_foundation_learns(block: Block) -> None:
    model = foundation(block, TableOptimizer()).train()
    before = model.tables()[0][1].weight.clone()
    one = batch(size=24, seed=7)
    foundation_loss(model(one), one).total.backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    model.tables()[0][1].step()
    changed = (model.tables()[0][1].weight != before).any(1)
    assert changed[one.candidates.flatten()].all()
    assert not changed[0]


@both_forms
def test_every_parameter_of_an_expert_learns_and_nothing_reaches_the_foundation(block: Block) -> None:
    source, reader = foundation(block, TableOptimizer()).train(), expert(block, TableOptimizer()).train()
    one = batch(size=24, seed=7)
    tae = source(one).tae
    assert tae.requires_grad
    present = torch.arange(24) % 3 > 0
    logits = reader(one, tae, present)
    expert_loss(logits, one, reader.config.task_columns).total.backward()
    still = [n for n, p in reader.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # One surface's expert still meets every surface and task in shared vocabularies; this batch holds them all.
    assert still == ["foundation_heads.weight", "foundation_heads.bias"]
    assert all(p.grad is None for p in source.parameters())
    assert all(out.grad is None for _, table in source.tables() for _, out in table._pending)


@torch.no_grad()
def test_an_expert_without_tae_reads_the_learned_vector_and_nothing_else() -> None:
    model, one = expert(), batch()
    absent = torch.zeros(len(one), dtype=torch.bool)
    zeros = torch.zeros(5, 4, 8)
    rubbish = torch.full((5, 4, 8), float("nan"))
    assert torch.equal(model(one, zeros, absent), model(one, rubbish, absent))
    assert not torch.allclose(model(one, zeros, absent), model(one, zeros + 1, ~absent))
    before = model(one, zeros, absent)
    model.absent += 1
    assert not torch.allclose(before, model(one, zeros, absent))


@torch.no_grad()
def test_before_its_first_step_an_expert_is_the_foundations_heads_and_without_tae_the_base_rate() -> None:
    source, one = foundation(), batch()
    reader = ExpertModel(expert_config(tasks=(ExpertTask("purchase"), ExpertTask("click"))), content()).eval()
    reader.start_from(source)
    reader.set_base_rates(torch.tensor([0.2, float("nan")]))
    output, present = source(one), torch.arange(5) > 1
    logits = reader(one, output.tae, present)
    order = [source.config.tasks.index("purchase"), source.config.tasks.index("click")]
    torch.testing.assert_close(logits[2:], output.logits[2:, :, order])
    assert torch.equal(logits[:2], torch.tensor([math.log(0.25), 0.0]).expand(2, 4, 2))


@torch.no_grad()
def test_a_copy_of_the_heads_does_not_follow_the_foundation() -> None:
    source, reader = foundation(), expert()
    reader.start_from(source)
    before = reader.foundation_heads.weight.clone()
    source.heads.weight += 1
    assert torch.equal(reader.foundation_heads.weight, before)


@torch.no_grad()
def test_the_share_of_what_was_learned_counts_beside_the_heads_and_not_without_tae() -> None:
    model, one = expert(), batch()
    tae = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(1))
    present = torch.arange(5) > 1
    whole, heads = model(one, tae, present), model.foundation_heads(tae)
    model.set_learned_share(torch.tensor([0.0, 0.25]))
    part = model(one, tae, present)
    assert torch.equal(part[:2], whole[:2])
    torch.testing.assert_close(part[2:], heads[2:] + torch.tensor([0.0, 0.25]) * (whole - heads)[2:])
    assert not torch.allclose(part[2:], whole[2:])


def test_a_missing_tae_that_is_not_a_number_does_not_poison_gradients() -> None:
    model, one = expert(optimizer=TableOptimizer()).train(), batch()
    tae = torch.randn(5, 4, 8)
    tae[0] = float("nan")
    present = torch.arange(5) > 0
    expert_loss(model(one, tae, present), one, model.config.task_columns).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_a_foundation_refuses_a_history_longer_than_its_configuration() -> None:
    with pytest.raises(ValueError, match="longer than the version's 12"):
        foundation().tae(batch(history=HISTORY + 1))


@torch.no_grad()
def test_a_batch_without_any_history_is_scored() -> None:
    one = batch()
    none = torch.zeros(5, 0, dtype=torch.int64)
    bare = replace(
        one,
        history_items=none,
        history_surfaces=none,
        history_actions=none,
        history_times=none,
        history_lengths=torch.zeros(5, dtype=torch.int64),
    )
    for block in get_args(Block):
        assert torch.isfinite(foundation(block).tae(bare)).all()
        torch.testing.assert_close(foundation(block).tae(one)[-1], foundation(block).tae(bare)[-1])


def test_every_tensor_of_a_batch_moves_to_another_device_and_what_is_absent_stays_so() -> None:
    one = batch()
    moved = one.to("meta")
    for entry in fields(one):
        before, after = getattr(one, entry.name), getattr(moved, entry.name)
        assert (after is None) is (before is None), entry.name
        assert before is None or (after.device.type, after.shape) == ("meta", before.shape), entry.name


@pytest.mark.parametrize("made", [foundation, expert])
@pytest.mark.parametrize("block", get_args(Block))
def test_a_model_is_moved_whole(made: Callable[[Block], torch.nn.Module], block: Block) -> None:
    """On the device of no memory: also tensors that no list of parameters and buffers names."""
    model = made(block).to("meta")
    held = [(kind, name, value) for kind in model.modules() for name, value in vars(kind).items()]
    assert not [name for _, name, value in held if isinstance(value, torch.Tensor) and not value.is_meta]
    assert all(value.is_meta for value in model.state_dict().values())
    assert all(buffer.is_meta for buffer in model.buffers())


def test_losses_count_valid_samples_alone() -> None:
    logits = torch.tensor([[0.0, 50.0], [float("nan"), 0.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    mask = torch.tensor([[True, False], [False, True]])
    loss = masked_bce_sum(logits, labels, mask)
    torch.testing.assert_close(loss, torch.tensor(2 * 0.6931472))
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert torch.equal(logits.grad != 0, mask)


def test_a_masked_candidate_weighs_nothing_and_the_loss_is_a_mean_over_labels() -> None:
    model, one = foundation(), batch()
    mask = one.candidate_mask.clone()
    mask[:, 2:] = False
    half = replace(one, candidate_mask=mask)
    output = model(half)
    loss = foundation_loss(output, half)
    assert one.label_mask is not None
    assert int(loss.valid) == int(one.label_mask[:, :2].sum())
    assert one.labels is not None
    aux = masked_bce_sum(output.aux_logits, one.labels, one.label_mask & mask[..., None])
    expected = (loss.main_sum + 0.2 * aux.detach()) / loss.valid
    torch.testing.assert_close(loss.total.detach(), expected)


@torch.no_grad()
def test_alignment_logits_come_from_the_heads_of_the_requests_own_surface() -> None:
    model, one = foundation(), batch()
    before = model(one).aux_logits
    model.align[1] += 1
    moved = (model(one).aux_logits != before).any(-1).any(-1)
    assert torch.equal(moved, one.surfaces == 1)


def test_the_alignment_loss_moves_the_embedding_and_not_its_own_heads_alone() -> None:
    model, one = foundation(optimizer=TableOptimizer()).train(), batch()
    moved = torch.autograd.grad(model(one).aux_logits.sum(), list(model.embed.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in moved)


@pytest.mark.parametrize("config", [foundation_config(), expert_config(), foundation_config("Research")])
def test_a_configuration_survives_the_manifest(config: FoundationConfig | ExpertConfig) -> None:
    text = manifest("FoundationModel", config.to_dict()).model_dump_json()
    assert type(config).from_dict(Manifest.model_validate_json(text).config) == config


def test_a_configuration_with_other_fields_is_refused_by_name() -> None:
    values = foundation_config().to_dict()
    del values["attn_norm_len"]
    with pytest.raises(RecastError, match="attn_norm_len"):
        FoundationConfig.from_dict(values)


@pytest.mark.parametrize("make", [foundation_config, expert_config])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 10, "heads": 3}, "dim 10 is not a multiple of heads 3"),
        ({"dim": 10, "heads": 2}, "dim 10 is not a multiple of 4: the embedding tables need it"),
        ({"attn_norm_len": 0}, "attn_norm_len must be at least 1, not 0"),
        ({"block": "Softmax"}, 'block "Softmax" is neither Research nor DLRMv3'),
        ({"tasks": ()}, "at least one task"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_before_it_is(
    make: Callable[..., object], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make(**changes)


def test_an_experts_tasks_are_columns_of_the_foundations_in_the_experts_order() -> None:
    config = expert_config(surface="ads", tasks=(ExpertTask("purchase"), ExpertTask("click")))
    assert (config.surface_index, config.task_columns) == (2, (2, 0))


def test_an_expert_configuration_names_what_the_foundation_lacks() -> None:
    with pytest.raises(RecastError, match='surface "stories" is not among reels, feed, ads'):
        expert_config(surface="stories")
    with pytest.raises(RecastError, match="tasks share are not among"):
        expert_config(tasks=(ExpertTask("share"),))


def artefact_parts() -> tuple[ItemTable, HistorySnapshot]:
    items = ItemTable(np.arange(10, 60, dtype=np.int64), content().numpy()[1:])
    events = History(*(np.arange(4, dtype=np.int64) for _ in range(5)))
    return items, HistorySnapshot(np.array([3, 8], np.int64), np.array([0, 3, 4], np.int64), events, NOW)


@torch.no_grad()
def test_a_saved_foundation_answers_as_before(tmp_path: Path) -> None:
    model, (items, history) = foundation(optimizer=TableOptimizer()), artefact_parts()
    assert save_model(tmp_path, model.state_dict(), items, history) == [
        "history.safetensors",
        "items.safetensors",
        "model.safetensors",
    ]
    loaded = load_foundation(tmp_path, manifest("FoundationModel", model.config.to_dict()))
    assert torch.equal(loaded.model.tae(batch()), model.tae(batch()))
    assert loaded.items.index(np.array([10, 59, 60])).tolist() == [1, 50, 0]
    assert len(loaded.history.lookup(3)) == 3
    assert len(loaded.history.lookup(4)) == 0
    assert len(loaded.history.lookup(8)) == 1
    assert loaded.config.surfaces == SURFACES


@torch.no_grad()
def test_items_without_content_are_told_by_their_ids_alone(tmp_path: Path) -> None:
    config = foundation_config(content_dim=0)
    torch.manual_seed(1)
    model = FoundationModel(config, torch.empty(ITEMS + 1, 0), TableOptimizer()).eval()
    randomize(model)
    assert not [name for name in model.state_dict() if "content" in name]
    found = model.tae(batch())
    other = replace(batch(), candidates=batch().candidates.roll(1, 1))
    assert found.isfinite().all()
    assert not torch.allclose(model.tae(other), found)
    _, history = artefact_parts()
    items = ItemTable(np.arange(10, 60, dtype=np.int64), np.empty((ITEMS, 0), np.float32))
    save_model(tmp_path, model.state_dict(), items, history)
    loaded = load_foundation(tmp_path, manifest("FoundationModel", config.to_dict()))
    assert torch.equal(loaded.model.tae(batch()), found)
    reader = ExpertModel(expert_config(content_dim=0), torch.empty(ITEMS + 1, 0)).eval()
    present = torch.ones(len(batch()), dtype=torch.bool)
    assert reader(batch(), found, present).isfinite().all()


@torch.no_grad()
def test_a_saved_expert_answers_as_before(tmp_path: Path) -> None:
    model, (items, history) = expert(), artefact_parts()
    save_model(tmp_path, model.state_dict(), items, history)
    loaded = load_expert(tmp_path, manifest("ExpertModel", model.config.to_dict()))
    tae, present = torch.randn(5, 4, 8), torch.ones(5, dtype=torch.bool)
    assert torch.equal(loaded.model(batch(), tae, present), model(batch(), tae, present))


def test_damaged_artefacts_say_what_is_damaged(tmp_path: Path) -> None:
    model, (items, history) = foundation(), artefact_parts()
    save_model(tmp_path, model.state_dict(), items, history)
    good = manifest("FoundationModel", model.config.to_dict())
    wider = manifest("FoundationModel", foundation_config(tae_dim=16).to_dict())
    with pytest.raises(RecastError, match="does not fit its manifest"):
        load_foundation(tmp_path, wider)
    with pytest.raises(RecastError, match="holds FoundationModel home-fm, expected ExpertModel"):
        load_expert(tmp_path, good)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RecastError, match=r"model\.safetensors cannot be read"):
        load_foundation(tmp_path, good)
    (tmp_path / "history.safetensors").unlink()
    with pytest.raises(RecastError, match=r"history\.safetensors is not there"):
        load_foundation(tmp_path, good)


def test_tasks_that_no_surface_has_keep_their_heads_and_others_start_from_their_rates() -> None:
    model = foundation()
    bias, align = model.heads.bias.detach().clone(), model.align.detach().clone()
    rates = torch.full((len(model.config.surfaces), len(model.config.tasks)), torch.nan)
    rates[:, 0] = 0.2
    model.set_base_rates(rates)
    assert torch.equal(model.heads.bias[1:], bias[1:])
    assert torch.equal(model.align[..., 1:], align[..., 1:])
    torch.testing.assert_close(model.heads.bias[0], torch.logit(torch.tensor(0.2)))
