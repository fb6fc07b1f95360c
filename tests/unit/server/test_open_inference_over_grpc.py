"""The Open Inference Protocol over gRPC: the same answers, refusals and counts as over REST."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from real_edge import SLO_SECONDS, GatedRanker, until

from recast_api.resources.version import FoundationPin
from recast_model.context import ContextFeature
from recast_server.expert.edge import Identity
from recast_server.expert.open_inference.service import InferenceService
from recast_server.expert.schema import BODY_BYTES
from recast_server.expert.scoring import Scoring
from recast_server.proto import open_inference_pb2 as wire
from recast_server.proto.open_inference_pb2_grpc import (
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)
from recast_server.runtime import grpc_server
from recast_server.runtime.health import Health, Phase
from recast_server.runtime.metrics import ScoringRequests
from recast_server.runtime.queue_metrics import QueueMetrics
from recast_server.runtime.scheduler import ExpiredError, OverloadedError, Scheduler

Input, Output = wire.ModelInferRequest.InferInputTensor, wire.ModelInferRequest.InferRequestedOutputTensor
Contents = wire.InferTensorContents
PIN = FoundationPin(name="home-fm", version=3, lineage=3, digest="sha256:" + "ab" * 32)
CONTEXT = (ContextFeature("device", "Categorical", ("phone",)), ContextFeature("battery", "Numeric"))
CODE = grpc.StatusCode


@dataclass
class Served:
    stub: Any
    ranker: GatedRanker
    health: Health
    registry: CollectorRegistry
    server: grpc.aio.Server

    def value(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, f"no metric {name} {labels}"
        return value

    def answered(self) -> dict[str, float]:
        (found,) = [family for family in self.registry.collect() if family.name == "recast_requests"]
        return {s.labels["code"]: s.value for s in found.samples if s.name.endswith("_total") and s.value}


@pytest.fixture
async def inference() -> AsyncIterator[Served]:
    ranker, registry = GatedRanker(), CollectorRegistry()
    ranker.gate.set()
    scheduler = Scheduler(1, QueueMetrics(CollectorRegistry()))
    scheduler.start()
    health = Health(scheduler)
    health.phase = Phase.SERVING
    server = grpc_server.make_server(30.0, BODY_BYTES)
    service = InferenceService(
        Identity("reels", "reels", "0123456789", 7, PIN, ("click",), CONTEXT),
        Scoring(ranker, SLO_SECONDS, scheduler.require_room),
        health,
        ScoringRequests(registry, SLO_SECONDS),
    )
    add_GRPCInferenceServiceServicer_to_server(service, server)
    port = grpc_server.listen(server, "127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Served(GRPCInferenceServiceStub(channel), ranker, health, registry, server)
    ranker.gate.set()
    await server.stop(0)
    scheduler.close()


def request(*more: Any, **changes: Any) -> wire.ModelInferRequest:
    inputs = [
        Input(name="user", datatype="INT64", shape=[1], contents=Contents(int64_contents=[1])),
        Input(name="candidates", datatype="INT64", shape=[1, 3], contents=Contents(int64_contents=[5, 9, 7])),
        *more,
    ]
    return wire.ModelInferRequest(**{"model_name": "reels", "inputs": inputs, **changes})


def raw(**tensors: tuple[str, list[int], bytes]) -> wire.ModelInferRequest:
    inputs = [Input(name=name, datatype=kind, shape=shape) for name, (kind, shape, _) in tensors.items()]
    return request(inputs=inputs, raw_input_contents=[data for _, _, data in tensors.values()])


USER = ("INT64", [1], struct.pack("<q", 1))
CANDIDATES = ("INT64", [1, 3], np.array([5, 9, 7], "<i8").tobytes())


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_scores_come_raw_in_the_order_asked_with_the_revision_that_gave_them(inference: Served) -> None:
    call = inference.stub.ModelInfer(request(id="seven"), metadata=(("x-request-id", "client-17"),))
    reply = await call
    assert (reply.model_name, reply.model_version, reply.id) == ("reels", "7", "seven")
    scores, probabilities = reply.outputs
    assert (scores.name, scores.datatype, list(scores.shape)) == ("scores", "FP32", [1, 3])
    assert (probabilities.name, list(probabilities.shape)) == ("probabilities", [1, 3, 1])
    assert probabilities.parameters["tasks"].string_param == "click"
    assert reply.parameters["tae"].string_param == "fresh"
    for tensor in reply.raw_output_contents:
        assert np.frombuffer(tensor, "<f4").tolist() == [5.0, 9.0, 7.0]
    headers = dict(await call.trailing_metadata())
    assert (headers["x-recast-revision"], headers["x-recast-tae"]) == ("0123456789", "fresh")
    assert headers["x-request-id"] == "client-17"
    assert inference.answered() == {"200": 1}
    assert inference.value("recast_tae_total", state="fresh") == 1


async def test_raw_inputs_are_read(inference: Served) -> None:
    reply = await inference.stub.ModelInfer(raw(candidates=CANDIDATES, user=USER))
    assert np.frombuffer(reply.raw_output_contents[0], "<f4").tolist() == [5.0, 9.0, 7.0]


async def test_only_the_outputs_asked_for_come(inference: Served) -> None:
    reply = await inference.stub.ModelInfer(request(outputs=[Output(name="probabilities")]))
    assert [output.name for output in reply.outputs] == ["probabilities"]
    assert len(reply.raw_output_contents) == 1


REFUSED = [
    (request(model_name="feed"), CODE.NOT_FOUND, "NotFound"),
    (request(model_version="8"), CODE.NOT_FOUND, "version 7"),
    (request(inputs=[]), CODE.INVALID_ARGUMENT, "user: the input is missing"),
    (request(Input(name="user", datatype="INT64", shape=[1])), CODE.INVALID_ARGUMENT, "twice"),
    (request(Input(name="time", datatype="INT32", shape=[1])), CODE.INVALID_ARGUMENT, "INT64 [1]"),
    (request(Input(name="time", datatype="INT64", shape=[2**62])), CODE.INVALID_ARGUMENT, "INT64 [1]"),
    (request(Input(name="time", datatype="INT64", shape=[1])), CODE.INVALID_ARGUMENT, "0 values"),
    (
        request(Input(name="context.device", datatype="BYTES", shape=[1], contents=Contents(bytes_contents=[b"\xff"]))),
        CODE.INVALID_ARGUMENT,
        "UTF-8",
    ),
    (
        request(
            Input(name="context.battery", datatype="FP64", shape=[1], contents=Contents(fp64_contents=[float("nan")]))
        ),
        CODE.INVALID_ARGUMENT,
        "context",
    ),
    (request(raw_input_contents=[b""]), CODE.INVALID_ARGUMENT, "there are 1 for 2 inputs"),
    (request(raw_input_contents=[USER[2], CANDIDATES[2]]), CODE.INVALID_ARGUMENT, "contents and raw_input_contents"),
    (raw(user=USER, candidates=("INT64", [1, 3], b"\0" * 25)), CODE.INVALID_ARGUMENT, "25 bytes"),
    (request(outputs=[Output(name="embedding")]), CODE.INVALID_ARGUMENT, "embedding"),
    (
        request(outputs=[Output(name="scores", parameters={"classification": wire.InferParameter(int64_param=1)})]),
        CODE.INVALID_ARGUMENT,
        "classification",
    ),
]


@pytest.mark.parametrize(("asked", "code", "words"), REFUSED, ids=range(len(REFUSED)))
async def test_what_is_not_as_the_metadata_says_is_refused_in_words(
    inference: Served, asked: Any, code: Any, words: str
) -> None:
    error = await failure(inference.stub.ModelInfer(asked))
    assert (error.code(), words in str(error.details())) == (code, True)
    assert dict(error.trailing_metadata())["x-recast-revision"] == "0123456789"
    assert inference.ranker.begun == 0
    assert inference.answered() == ({"422": 1} if code == CODE.INVALID_ARGUMENT else {})


@pytest.mark.parametrize(
    ("raised", "code", "status"),
    [
        (OverloadedError("full"), CODE.RESOURCE_EXHAUSTED, "503"),
        (ExpiredError("late"), CODE.RESOURCE_EXHAUSTED, "503"),
        (KeyError("boost"), CODE.INTERNAL, "500"),
    ],
)
async def test_a_failing_ranker_is_counted_once_and_tells_no_internals(
    inference: Served, raised: Exception, code: Any, status: str
) -> None:
    inference.ranker.failure = raised
    error = await failure(inference.stub.ModelInfer(request()))
    assert error.code() == code
    assert "boost" not in str(error.details())
    assert inference.answered() == {status: 1}


async def test_where_nothing_could_be_answered_a_call_is_refused(inference: Served) -> None:
    inference.health._scheduler.close()
    error = await failure(inference.stub.ModelInfer(request()))
    assert error.code() == CODE.RESOURCE_EXHAUSTED
    assert inference.ranker.begun == 0


async def test_who_cancels_a_call_takes_its_request_back(inference: Served) -> None:
    inference.ranker.gate.clear()
    call = inference.stub.ModelInfer(request())
    await until(lambda: inference.ranker.begun == 1)
    call.cancel()
    await until(lambda: inference.ranker.cancelled == 1)
    await until(lambda: inference.value("recast_client_disconnects_total") == 1)
    assert inference.answered() == {}
    assert inference.value("recast_requests_in_flight") == 0


async def test_a_call_has_its_own_deadline_and_one_without_has_the_slo_less_a_reserve(inference: Served) -> None:
    seen = list[float]()
    rank = inference.ranker.rank

    async def spy(asked: Any, context: Any) -> Any:
        seen.append(context.left)
        return await rank(asked, context)

    inference.ranker.rank = spy  # type: ignore[method-assign]
    await inference.stub.ModelInfer(request(), timeout=30)
    await inference.stub.ModelInfer(request())
    await inference.stub.ModelInfer(request(), timeout=3600)
    assert 20 < seen[0] <= 31  # gRPC rounds what it sends up
    assert 0 < seen[1] <= 0.9 * SLO_SECONDS
    assert 50 < seen[2] <= 60


async def test_a_call_whose_deadline_passes_is_dropped(inference: Served) -> None:
    inference.ranker.gate.clear()
    error = await failure(inference.stub.ModelInfer(request(), timeout=0.05))
    assert error.code() == CODE.DEADLINE_EXCEEDED
    await until(lambda: inference.ranker.cancelled == inference.ranker.begun)


async def test_a_message_beyond_the_limit_never_reaches_the_application(inference: Served) -> None:
    error = await failure(inference.stub.ModelInfer(request(id="x" * 10_000_000)))
    assert error.code() == CODE.RESOURCE_EXHAUSTED
    assert inference.answered() == {}


async def test_metadata_and_readiness_are_those_of_rest(inference: Served) -> None:
    stub = inference.stub
    model = await stub.ModelMetadata(wire.ModelMetadataRequest(name="reels"))
    assert [(i.name, i.datatype, list(i.shape)) for i in model.inputs][1] == ("candidates", "INT64", [1, -1])
    assert [(o.name, list(o.shape)) for o in model.outputs] == [("scores", [1, -1]), ("probabilities", [1, -1, 1])]
    assert model.properties["tasks"] == "click"
    assert (await stub.ServerMetadata(wire.ServerMetadataRequest())).name == "recast"
    assert (await stub.ServerLive(wire.ServerLiveRequest())).live
    assert (await stub.ModelReady(wire.ModelReadyRequest(name="reels", version="7"))).ready
    assert not (await stub.ModelReady(wire.ModelReadyRequest(name="reels", version="8"))).ready
    error = await failure(stub.ModelMetadata(wire.ModelMetadataRequest(name="feed")))
    assert error.code() == CODE.NOT_FOUND
    inference.health.phase = Phase.DRAINING
    assert not (await stub.ServerReady(wire.ServerReadyRequest())).ready
    assert (await stub.ServerLive(wire.ServerLiveRequest())).live
    assert inference.answered() == {}


async def test_a_drain_answers_what_is_in_flight(inference: Served) -> None:
    inference.ranker.gate.clear()
    call = inference.stub.ModelInfer(request())
    await until(lambda: inference.ranker.begun == 1)
    inference.health.phase = Phase.DRAINING
    drained = asyncio.ensure_future(grpc_server.drain(inference.server, 30.0))
    inference.ranker.gate.set()
    assert (await call).model_name == "reels"
    await drained


names = st.sampled_from(["user", "candidates", "time", "context.device", "context.battery", "limit", ""])
inputs = st.builds(
    lambda name, kind, shape, ints, texts: Input(
        name=name, datatype=kind, shape=shape, contents=Contents(int64_contents=ints, bytes_contents=texts)
    ),
    names,
    st.sampled_from(["INT64", "FP64", "BYTES", "INT32", ""]),
    st.lists(st.integers(-1, 3) | st.sampled_from([2**62, -(2**63)]), max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.lists(st.binary(max_size=4), max_size=2),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    good=st.booleans(),
    more=st.lists(inputs, max_size=4),
    contents=st.lists(st.binary(max_size=12), max_size=4),
    outputs=st.lists(st.sampled_from(["scores", "probabilities", ""]), max_size=2),
)
async def test_no_message_makes_an_internal_error(
    inference: Served, good: bool, more: list[Any], contents: list[bytes], outputs: list[str]
) -> None:
    asked = request(
        inputs=[*(request().inputs if good else ()), *more],
        raw_input_contents=contents,
        outputs=[Output(name=name) for name in outputs],
    )
    call = inference.stub.ModelInfer(asked, timeout=30)
    assert await call.code() in (CODE.OK, CODE.INVALID_ARGUMENT)
