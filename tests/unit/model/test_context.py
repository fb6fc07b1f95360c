"""Context of a request: from names to arrays, and from arrays to what is added to candidates."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from model_builders import batch, content, expert, expert_config, foundation, foundation_config

from recast_api.run import RecastError
from recast_model.batch import RequestBatch
from recast_model.config import ExpertConfig, FoundationConfig
from recast_model.context import Context, ContextFeature, Moments
from recast_model.context_encoder import FIRST_NUMBERS, ContextEncoder
from recast_model.expert import ExpertModel
from recast_model.features import Request, collate
from recast_model.foundation import FoundationModel
from recast_model.history import History
from recast_model.losses import expert_loss, foundation_loss

NAN = float("nan")
DEVICE = ContextFeature("device", "Categorical", ("phone", "tablet", "tv"))
BATTERY = ContextFeature("battery", "Numeric")
APP = ContextFeature("app", "Categorical", ("old", "new"))
PRICE = ContextFeature("price", "Numeric")
FEATURES = (BATTERY, DEVICE, APP, PRICE)


def in_context(seed: int = 5, **options: Any) -> RequestBatch:
    made = batch(**options)
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(len(made), 2)).astype(np.float32)
    numbers[random.random(numbers.shape) < 0.2] = NAN
    values = np.stack([random.integers(0, 4, len(made)), random.integers(0, 3, len(made))], 1)
    return replace(made, context_values=torch.from_numpy(values), context_numbers=torch.from_numpy(numbers))


@pytest.mark.parametrize(
    ("value", "index"), [("phone", 1), ("tv", 3), ("Phone", 0), ("", 0), (None, 0), (1, 0), (True, 0), (["phone"], 0)]
)
def test_a_value_is_its_place_in_the_list_and_anything_else_is_unknown(value: object, index: int) -> None:
    assert DEVICE.encode([value]).tolist() == [index]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.25, 0.25), (3, 3.0), (-3.4e38, np.float32(-3.4e38)), (None, NAN), ("3", NAN), (True, NAN), (NAN, NAN),
        (math.inf, NAN), (-math.inf, NAN), (1e39, NAN), (10**400, NAN), ([1.0], NAN),
    ],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_a_number_is_itself_where_a_float32_can_hold_it_and_anything_else_is_unknown(
    value: object, number: float
) -> None:
    np.testing.assert_array_equal(BATTERY.encode([value]), np.array([number], np.float32))


@given(st.lists(st.none() | st.floats() | st.integers(-(10**6), 10**6)))
def test_a_column_of_numbers_is_read_as_a_servers_single_ones_are(numbers: list[float | None]) -> None:
    column = np.array([NAN if value is None else value for value in numbers], np.float64)
    singly = [BATTERY.encode([value])[0] for value in numbers]
    np.testing.assert_array_equal(BATTERY.encode(column), np.array(singly, np.float32))


def test_what_was_encoded_is_given_again_by_name() -> None:
    assert [DEVICE.decode(index) for index in (0, 1, 3)] == [None, "phone", "tv"]
    assert BATTERY.decode(np.float32(0.5)) == 0.5
    assert BATTERY.decode(np.float32(NAN)) is None


def test_a_requests_context_is_read_by_name_in_the_versions_order() -> None:
    found = Context.given(FEATURES, {"price": 3, "app": "new", "weather": "rain", "battery": None})
    assert found.values.tolist() == [[0, 2]]
    np.testing.assert_array_equal(found.numbers, [[NAN, 3]])
    assert (found.values.dtype, found.numbers.dtype) == (np.int64, np.float32)


def test_requests_of_a_batch_keep_their_own_context() -> None:
    none = History.empty()
    requests = [
        Request(1, 0, 5, np.array([1]), none, Context.given(FEATURES, {"device": "tv"})),
        Request(1, 0, 5, np.array([1]), none, Context.given(FEATURES, {"price": 2.5})),
    ]
    made = RequestBatch.from_arrays(collate(requests, 4))
    assert made.context_values is not None
    assert made.context_values.tolist() == [[3, 0], [0, 0]]
    assert made.context_numbers is not None
    np.testing.assert_array_equal(made.context_numbers, [[NAN, NAN], [NAN, 2.5]])
    bare = collate([Request(1, 0, 5, np.array([1]), none)], 4)
    assert bare.context_values is not None
    assert bare.context_values.shape == (1, 0)


def with_context(*, seed: int = 4) -> tuple[FoundationModel, ExpertModel]:
    """A foundation and an expert whose vectors of context say something."""
    models = foundation(context=FEATURES), expert(context=FEATURES)
    for model in models:
        encoder = model.tokens.request_context
        assert encoder is not None
        g = torch.Generator().manual_seed(seed)
        for parameter in encoder.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g)
        encoder.observe(np.array([[0, 5], [2, 7], [4, NAN]], np.float32))
    return models


def test_a_tokens_context_is_the_sum_of_its_features_vectors() -> None:
    encoder = with_context()[0].tokens.request_context
    assert encoder is not None
    values = torch.tensor([[0, 0], [3, 2]])
    numbers = torch.tensor([[NAN, 6.5], [3.0, NAN]])
    found = encoder(replace(batch(), context_values=values, context_numbers=numbers))
    vectors, price = encoder.values, encoder.numbers[1]
    scale = math.sqrt(8 / 3)  # of 0, 2 and 4
    expected = [
        vectors[0] + vectors[4] + encoder.unknown_numbers[0] + 0.5 * price,  # of 5 and 7: mean 6, scale 1
        vectors[3] + vectors[4 + 2] + encoder.unknown_numbers[1] + (3 - 2) / scale * encoder.numbers[0],
    ]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(("number", "times"), [(3e38, 5.0), (-3e38, -5.0), (6.0 + 5.01, 5.0), (6.0 + 4.75, 4.75)])
def test_numbers_far_from_the_mean_are_cut_off(number: float, times: float) -> None:
    encoder = with_context()[0].tokens.request_context
    assert encoder is not None

    def vector(value: float) -> torch.Tensor:
        numbers = torch.tensor([[2.0, value]])
        made: torch.Tensor = encoder(
            replace(batch(), context_values=torch.zeros(1, 2, dtype=torch.int64), context_numbers=numbers)
        )
        return made[0]

    torch.testing.assert_close(vector(number) - vector(6.0), times * encoder.numbers[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_context_changes_every_candidate_of_its_own_request_and_nothing_else() -> None:
    model, reader = with_context()
    one = in_context()
    other_values, other_numbers = one.context_values.clone(), one.context_numbers.clone()  # type: ignore[union-attr]
    other_values[2] = torch.tensor([1, 1]) + (other_values[2] == 1).long()
    others = (replace(one, context_values=other_values), replace(one, context_numbers=other_numbers))
    other_numbers[2] = torch.tensor([0.1, 7.5])
    present = torch.ones(len(one), dtype=torch.bool)
    for changed in others:
        rows, before = model.tokens(changed), model.tokens(one)
        assert torch.equal(rows.history, before.history)  # a history is computed once for all requests
        for found in (
            rows.candidates != before.candidates,
            model.tae(changed) != model.tae(one),
            reader(changed, torch.ones(5, 4, 8), present) != reader(one, torch.ones(5, 4, 8), present),
        ):
            moved = found.any(-1)
            assert moved[2].all()
            assert not moved[[0, 1, 3, 4]].any()


@torch.no_grad()
def test_a_network_with_context_begins_where_one_without_does() -> None:
    one = in_context()
    torch.manual_seed(1)
    without = FoundationModel(foundation_config(), content())
    after = torch.rand(1)
    torch.manual_seed(1)
    having = FoundationModel(foundation_config(context=FEATURES), content())
    assert torch.equal(torch.rand(1), after)
    having.observe_context(one.context_numbers.numpy())  # type: ignore[union-attr]
    assert torch.equal(having.eval().tae(one), without.eval().tae(one))
    assert torch.equal(without.tae(one), without.tae(batch()))  # and one without any reads none


def test_every_parameter_of_context_learns() -> None:
    one = in_context(size=40, seed=7)
    for model in with_context():
        model.train()
        if isinstance(model, FoundationModel):
            foundation_loss(model(one), one).total.backward()
        else:
            logits = model(one, torch.randn(40, 4, 8), torch.arange(40) % 2 > 0)
            expert_loss(logits, one, model.config.task_columns).total.backward()
        encoder = model.tokens.request_context
        assert encoder is not None
        for parameter in encoder.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            assert (parameter.grad.abs().sum(1) > 0).all()


def test_a_batch_without_context_is_no_batch_of_a_network_that_knows_some() -> None:
    with pytest.raises(ValueError, match="knows context was given a batch without any"):
        with_context()[0].tae(batch())


NUMBERS = arrays(np.float32, st.tuples(st.integers(0, 30), st.just(2)), elements=st.floats(-1e6, 1e6, width=32))


@given(st.lists(NUMBERS, max_size=4), st.integers(0, 2**31))
def test_moments_of_parts_are_those_of_the_whole(parts: list[np.ndarray], seed: int) -> None:
    random, found = np.random.default_rng(seed), Moments.none(2)
    for part in parts:
        part[random.random(part.shape) < 0.3] = NAN
        found = found.and_these(part)
    whole = np.concatenate([np.empty((0, 2)), *parts]).astype(np.float64)
    for column in range(2):
        known = whole[~np.isnan(whole[:, column]), column]
        assert found.count[column] == len(known)
        if len(known):
            assert found.mean[column] == pytest.approx(known.mean(), rel=1e-9, abs=1e-6)
            if known.std() > 1e-3:
                assert found.scale[column] == pytest.approx(known.std(), rel=1e-6)


@pytest.mark.parametrize("value", [0.1, -3e38, 1e-45, 0.0])
def test_a_feature_that_is_constant_or_unknown_has_scale_one(value: float) -> None:
    found = Moments.none(2)
    for size in (1, 7, 1000):
        found = found.and_these(np.stack([np.full(size, value, np.float32), np.full(size, NAN, np.float32)], 1))
    assert found.scale.tolist() == [1, 1]
    assert found.mean.tolist() == [float(np.float32(value)), 0]


def test_mean_and_scale_are_those_of_the_first_numbers_and_then_stay() -> None:
    encoder = ContextEncoder(FEATURES, 4)
    random = np.random.default_rng(0)
    first = random.normal(3, 2, (FIRST_NUMBERS - 1, 2)).astype(np.float32)
    first[:, 1] = NAN
    encoder.observe(first)
    more = random.normal(9, 1, (500, 2)).astype(np.float32)
    encoder.observe(more)  # one was missing yet
    both = np.concatenate([first, more])[:, 0].astype(np.float64)
    assert encoder.mean.tolist() == pytest.approx([both.mean(), more[:, 1].astype(np.float64).mean()])
    assert encoder.scale.tolist() == pytest.approx([both.std(), more[:, 1].astype(np.float64).std()])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.observe(np.full((10, 2), 1e6, np.float32))
    moved = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["count", "mean", "squares", "scale"]
    assert encoder.mean[0] == before["mean"][0]  # the other one has seen five hundred alone
    assert encoder.mean[1] > before["mean"][1]


def test_mean_and_scale_are_part_of_the_weights_and_an_experts_are_its_foundations_own() -> None:
    model, _ = with_context()
    other = FoundationModel(foundation_config(context=FEATURES), content()).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.tae(in_context()), model.tae(in_context()))
    assert not [name for name in model.state_dict() if name.endswith("offsets")]
    fresh = ExpertModel(expert_config(context=FEATURES), content())
    fresh.standardise_as(model)
    one, two = fresh.tokens.request_context, model.tokens.request_context
    assert one is not None
    assert two is not None
    assert (one.mean.tolist(), one.scale.tolist()) == (two.mean.tolist(), two.scale.tolist())
    fresh.load_state_dict(ExpertModel(expert_config(context=FEATURES), content()).state_dict())
    assert one.mean.tolist() == [0, 0] != two.mean.tolist()  # nothing is shared


@pytest.mark.parametrize("make", [foundation_config, expert_config])
def test_a_configuration_with_context_survives_a_manifest_and_one_without_is_written_as_before(make: Any) -> None:
    config = make(context=FEATURES)
    values = json.loads(json.dumps(config.to_dict()))
    assert type(config).from_dict(values) == config
    assert values["context"][:2] == [
        {"name": "battery", "type": "Numeric"},
        {"name": "device", "type": "Categorical", "values": ["phone", "tablet", "tv"]},
    ]
    assert "context" not in make().to_dict()  # older releases read it, and older manifests have none
    values["context"][0]["type"] = "Ordinal"
    with pytest.raises(RecastError, match="features of type Ordinal, which this release does not know") as caught:
        type(config).from_dict(values)
    assert caught.value.termination.reason == "ConfigMismatch"


@pytest.mark.parametrize("kind", [FoundationConfig, ExpertConfig])
def test_a_field_that_no_release_has_is_refused_with_context_and_without(kind: Any) -> None:
    values = (foundation_config() if kind is FoundationConfig else expert_config()).to_dict() | {"colour": 1}
    for more in ({}, {"context": []}):
        with pytest.raises(RecastError, match=r"differs from .* in: colour;"):
            kind.from_dict(values | more)
