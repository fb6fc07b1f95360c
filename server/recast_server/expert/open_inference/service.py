"""The Open Inference Protocol over gRPC. Tensors go in raw or typed, and come out raw.

A call passes what a request over REST does: one admission, its own deadline (or the SLO less a reserve), one count. The
headers that tell a client which revision it met are trailing metadata here. Who cancels a call takes its request back.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc
import grpc.aio

from recast_api import __version__, names
from recast_api.server import CLIENT_GONE
from recast_server.expert import schema
from recast_server.expert.edge import REQUEST_ID, STOPPING, Identity, refusal_of_failure
from recast_server.expert.open_inference.contract import EXTENSIONS, PLATFORM, SERVER, Contract, Declared
from recast_server.expert.open_inference.tensors import DataType, TensorSpec, Value, checked, from_bytes, text
from recast_server.expert.outcomes import TAE_NONE, Outcome, Outcomes
from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import RefusedError
from recast_server.expert.scoring import Scoring
from recast_server.histories.reader import Seen
from recast_server.proto import open_inference_pb2 as wire
from recast_server.runtime.context import LONGEST_SECONDS, RequestContext, deadline, deadline_of_call, traceparent
from recast_server.runtime.health import Health
from recast_server.runtime.metrics import ScoringRequests

Call: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_CODES = {
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_CONTENTS: dict[DataType, str] = {"INT64": "int64_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}


class InferenceService:
    """Implements the servicer of ``open_inference.proto``."""

    def __init__(self, identity: Identity, scoring: Scoring, health: Health, metrics: ScoringRequests) -> None:
        self._identity, self._scoring, self._health, self._metrics = identity, scoring, health, metrics
        self._contract, self._outcomes = Contract(identity), Outcomes(metrics)

    async def ServerLive(self, request: wire.ServerLiveRequest, call: Call) -> wire.ServerLiveResponse:  # noqa: N802
        """Whether the server runs as it should."""
        return await self._told(call, lambda: wire.ServerLiveResponse(live=self._health.live))

    async def ServerReady(self, request: wire.ServerReadyRequest, call: Call) -> wire.ServerReadyResponse:  # noqa: N802
        """Whether calls are welcome."""
        return await self._told(call, lambda: wire.ServerReadyResponse(ready=self._health.ready))

    async def ModelReady(self, request: wire.ModelReadyRequest, call: Call) -> wire.ModelReadyResponse:  # noqa: N802
        """Whether calls for the model are welcome; another model is not ready, which is no error."""

        def tell() -> wire.ModelReadyResponse:
            here = self._contract.has(request.name, request.version)
            return wire.ModelReadyResponse(ready=here and self._health.ready)

        return await self._told(call, tell)

    async def ServerMetadata(  # noqa: N802
        self, request: wire.ServerMetadataRequest, call: Call
    ) -> wire.ServerMetadataResponse:
        """What the server is."""
        return await self._told(
            call, lambda: wire.ServerMetadataResponse(name=SERVER, version=__version__, extensions=EXTENSIONS)
        )

    async def ModelMetadata(  # noqa: N802
        self, request: wire.ModelMetadataRequest, call: Call
    ) -> wire.ModelMetadataResponse:
        """What the model is."""

        def tell() -> wire.ModelMetadataResponse:
            self._contract.require_model(request.name, request.version)
            return wire.ModelMetadataResponse(
                name=self._contract.name,
                versions=[self._contract.version],
                platform=PLATFORM,
                inputs=[_metadata(spec) for spec in self._contract.inputs],
                outputs=[_metadata(spec) for spec in self._contract.outputs],
                properties=self._contract.properties,
            )

        return await self._told(call, tell)

    async def ModelInfer(self, request: wire.ModelInferRequest, call: Call) -> wire.ModelInferResponse:  # noqa: N802
        """The scores of one user's candidates."""
        begin, context = time.monotonic(), self._context(call)
        tae: str | None = None
        history: Seen | None = None
        refusal: RefusedError | None = None
        status = 200
        try:
            with self._metrics.in_flight():
                self._contract.require_model(request.model_name, request.model_version)
                self._scoring.require_room(context.deadline)
                wanted = _wanted(self._contract, request.outputs)
                asked = self._contract.request(_declared(request))
                ranking = await self._scoring.ranker.rank(asked, context)
                reply = _reply(self._contract, request.id, wanted, ranking)
            tae, history = ranking.tae, ranking.history
        except asyncio.CancelledError:
            status = STOPPING.status if self._health.draining else CLIENT_GONE
            raise
        except Exception as error:
            refusal = refusal_of_failure(error, context.request_id)
            status = refusal.status
        finally:
            count = self._outcomes.other if status == 404 else self._outcomes.scored
            seconds = time.monotonic() - begin
            count(Outcome(context.request_id, context.trace_id, status, seconds, tae=tae, history=history))
        return await self._end(call, context.request_id, reply if refusal is None else refusal, tae, history)

    async def _told(self, call: Call, tell: Callable[[], Any]) -> Any:
        """An answer that needs no model."""
        begin, context, status = time.monotonic(), self._context(call), 200
        try:
            answer = tell()
        except RefusedError as refusal:
            answer, status = refusal, refusal.status
        self._outcomes.other(Outcome(context.request_id, context.trace_id, status, time.monotonic() - begin))
        return await self._end(call, context.request_id, answer)

    async def _end(
        self, call: Call, request_id: str, answer: Any, tae: str | None = None, history: Seen | None = None
    ) -> Any:
        """Ends the call with its answer, or by a refusal."""
        headers = self._headers(request_id, tae or TAE_NONE, history)
        if isinstance(answer, RefusedError):
            await call.abort(_CODES[answer.status], f"{answer.reason}: {answer.message}", headers)
        call.set_trailing_metadata(headers)
        return answer

    def _context(self, call: Call) -> RequestContext:
        headers = {key: value for key, value in call.invocation_metadata() or () if isinstance(value, str)}
        asked_id, left = headers.get(names.HEADER_REQUEST_ID, ""), call.time_remaining()
        until = (
            deadline(time.monotonic(), None, self._scoring.slo_seconds)
            if left is None
            else deadline_of_call(left, LONGEST_SECONDS)
        )
        request_id = asked_id if REQUEST_ID.fullmatch(asked_id) else uuid.uuid4().hex
        return RequestContext(request_id, until - self._scoring.lag(), traceparent(headers))

    def _headers(self, request_id: str, tae: str, history: Seen | None) -> tuple[tuple[str, str], ...]:
        found = [*self._identity.headers(request_id, tae), *(() if history is None else history.headers)]
        return tuple((name.decode(), value.decode()) for name, value in found)


def _metadata(spec: TensorSpec) -> wire.ModelMetadataResponse.TensorMetadata:
    return wire.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _declared(request: wire.ModelInferRequest) -> list[Declared]:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        problem = f"there are {len(raw)} for {len(request.inputs)} inputs"
        raise _refused("raw_input_contents", problem, "one for each input, in their order, or none")
    return [_input(given, raw[place] if raw else None) for place, given in enumerate(request.inputs)]


def _input(given: wire.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Declared:
    def read(spec: TensorSpec) -> Sequence[Value]:
        if raw is not None and given.HasField("contents"):
            raise ValueError("the input has contents and raw_input_contents")
        if raw is not None:
            return from_bytes(spec.datatype, given.shape, raw)
        values = list(getattr(given.contents, _CONTENTS[spec.datatype]))
        if spec.datatype == "BYTES":
            values = [text(value) for value in values]
        return checked(spec.datatype, given.shape, values)

    return Declared(given.name, given.datatype, list(given.shape), read)


def _wanted(
    contract: Contract, outputs: Sequence[wire.ModelInferRequest.InferRequestedOutputTensor]
) -> tuple[TensorSpec, ...]:
    for output in outputs:
        contract.require_plain(output.name, output.parameters)
    return contract.requested([output.name for output in outputs])


def _reply(
    contract: Contract, request_id: str, wanted: Sequence[TensorSpec], ranking: Ranking
) -> wire.ModelInferResponse:
    values = contract.answers(ranking)
    return wire.ModelInferResponse(
        model_name=contract.name,
        model_version=contract.version,
        id=request_id,
        parameters=_parameters(contract.parameters(ranking)),
        outputs=[
            wire.ModelInferResponse.InferOutputTensor(
                name=spec.name,
                datatype=spec.datatype,
                shape=values[spec.name].shape,
                parameters=_parameters(contract.output_parameters(spec)),
            )
            for spec in wanted
        ],
        raw_output_contents=[values[spec.name].astype("<f4", copy=False).tobytes() for spec in wanted],
    )


def _parameters(values: Mapping[str, str | int]) -> dict[str, wire.InferParameter]:
    return {
        name: wire.InferParameter(string_param=value)
        if isinstance(value, str)
        else wire.InferParameter(int64_param=value)
        for name, value in values.items()
    }


def _refused(field: str, problem: str, allowed: str) -> RefusedError:
    return schema.refused([{"field": field, "problem": problem, "allowed": allowed}])
