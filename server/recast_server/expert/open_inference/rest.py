"""The Open Inference Protocol over REST, with its binary tensors: bodies, answers and paths.

A body is JSON alone, or JSON as long as the header ``Inference-Header-Content-Length`` says and then the bytes of those
inputs that have a ``binary_data_size``, in their order. An answer is made likewise. A refusal is ``{"error": words}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from recast_api import __version__, names
from recast_model.context import MAX_FEATURES
from recast_server.expert import schema
from recast_server.expert.edge import Exchange, Reply, Route, encode_json
from recast_server.expert.open_inference.contract import (
    EXTENSIONS,
    PLATFORM,
    SERVER,
    Contract,
    Declared,
)
from recast_server.expert.open_inference.tensors import DataType, TensorSpec, Value, from_bytes, from_json
from recast_server.expert.ranker import Ranking
from recast_server.expert.schema import RefusedError
from recast_server.expert.scoring import Scoring
from recast_server.runtime.health import Health

ROOT = "/v2"
INPUTS = MAX_FEATURES + 3
ID_LENGTH = 256
_HEADER = names.HEADER_INFERENCE_LENGTH
_LENGTH = re.compile(r"[0-9]{1,9}", re.ASCII)
_ALLOWED = {
    "id": f"a text of at most {ID_LENGTH} characters",
    "inputs": f"1 to {INPUTS} objects {{name, shape, datatype, data}}",
    "outputs": "objects {name}, or absent for all outputs",
    "parameters": "an object",
}


class _Open(BaseModel):
    """Of the protocol, which lets anybody add members."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class InferInput(_Open):
    """A tensor that goes in. ``data`` is flat or nested, row by row; in the binary form it follows the JSON, and the
    parameter ``binary_data_size`` says how many bytes are its own.
    """

    name: str
    shape: Annotated[list[int], Field(max_length=8)]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class InferOutput(_Open):
    """A tensor that is to come out; its parameter ``binary_data`` says in which form."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(_Open):
    """What to compute. The parameter ``binary_data_output`` is the form of outputs that do not say it themselves."""

    id: Annotated[str, Field(max_length=ID_LENGTH)] = ""
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=INPUTS)]
    outputs: Annotated[list[InferOutput], Field(max_length=INPUTS)] = []
    parameters: dict[str, Any] = {}


class TensorMetadata(TypedDict):
    """A tensor of the model; a size of -1 is any."""

    name: str
    datatype: DataType
    shape: Sequence[int]


class ModelMetadata(TypedDict):
    """The model that is served."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: Annotated[
        dict[str, str], Field(description="`tasks` are in the order of the last axis of the output probabilities")
    ]


class ServerMetadata(TypedDict):
    """The server."""

    name: str
    version: str
    extensions: Sequence[str]


class ServerLive(TypedDict):
    """Whether the server runs as it should."""

    live: bool


class ServerReady(TypedDict):
    """Whether requests are welcome."""

    ready: bool


class ModelReady(ServerReady):
    """Whether requests for the model are welcome."""

    name: str


class OutputTensor(TensorMetadata):
    """A tensor that came out: its data is flat, row by row, or follows the JSON in as many bytes as its parameter
    ``binary_data_size`` says.
    """

    parameters: NotRequired[dict[str, str | int]]
    data: NotRequired[list[float]]


class InferAnswer(TypedDict):
    """What was computed."""

    model_name: str
    model_version: str
    id: NotRequired[str]
    parameters: dict[str, str | int]
    outputs: list[OutputTensor]


class InferRefusal(TypedDict):
    """Why nothing was computed: a reason and words."""

    error: str


@dataclass(frozen=True)
class _Wanted:
    """An output and the form that it is wanted in."""

    spec: TensorSpec
    binary: bool


def parse(body: bytes, header_length: str | None) -> tuple[InferRequest, list[Declared]]:
    """The request in a body and its inputs, not read yet. Raises :class:`RefusedError` that says what is wrong."""
    text, binary = _parts(body, header_length)
    try:
        asked = InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise schema.refusal_of(error, _ALLOWED, "an object with inputs") from None
    declared, place = [], 0
    for given in asked.inputs:
        size = given.parameters.get("binary_data_size")
        if size is None:
            declared.append(_in_json(given))
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - place:
            raise _refused_binary(given.name, "its binary_data_size is no number of bytes that the body has left")
        declared.append(_in_bytes(given, binary[place : place + size]))
        place += size
    if place != len(binary):
        raise _refused_binary("(body)", f"{len(binary) - place} bytes after the JSON belong to no input")
    return asked, declared


def refusal_body(refusal: RefusedError) -> InferRefusal:
    """The protocol's body of a refusal."""
    return {"error": f"{refusal.reason}: {refusal.message}"}


def routes(contract: Contract, scoring: Scoring, health: Health) -> dict[str, dict[str, Route]]:
    """What the protocol has, by path and by method. Another model or version has no path here."""

    async def live(_: Exchange) -> Reply:
        body: ServerLive = {"live": health.live}
        return Reply(200 if health.live else 503, encode_json(body))

    async def ready(_: Exchange) -> Reply:
        body: ServerReady = {"ready": health.ready}
        return Reply(200 if health.ready else 503, encode_json(body))

    async def model_ready(_: Exchange) -> Reply:
        body: ModelReady = {"name": contract.name, "ready": health.ready}
        return Reply(200 if health.ready else 503, encode_json(body))

    async def server(_: Exchange) -> Reply:
        body: ServerMetadata = {"name": SERVER, "version": __version__, "extensions": EXTENSIONS}
        return Reply(200, encode_json(body))

    async def model(_: Exchange) -> Reply:
        return Reply(200, encode_json(_metadata(contract)))

    async def infer(exchange: Exchange) -> Reply:
        body, context = await scoring.receive(exchange)
        asked, declared = parse(body, exchange.headers.get(_HEADER))
        wanted = _wanted(contract, asked)
        ranking = await scoring.rank(exchange, contract.request(declared), context)
        return _answer(contract, asked, wanted, ranking)

    found = {
        ROOT: {"GET": Route(server)},
        f"{ROOT}/health/live": {"GET": Route(live)},
        f"{ROOT}/health/ready": {"GET": Route(ready)},
    }
    for path in (f"{ROOT}/models/{contract.name}", f"{ROOT}/models/{contract.name}/versions/{contract.version}"):
        found[path] = {"GET": Route(model)}
        found[f"{path}/ready"] = {"GET": Route(model_ready)}
        found[f"{path}/infer"] = {"POST": Route(infer, scores=True)}
    return found


def _parts(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON of a body and what follows it."""
    if header_length is None:
        return body, b""
    if not _LENGTH.fullmatch(header_length) or int(header_length) > len(body):
        raise _refused_binary(_HEADER, f"{header_length!r:.40} is no length of the JSON at the body's begin")
    return body[: int(header_length)], body[int(header_length) :]


def _in_json(given: InferInput) -> Declared:
    def read(spec: TensorSpec) -> Sequence[Value]:
        if given.data is None:
            raise ValueError("the input has neither data nor binary_data_size")
        return from_json(spec.datatype, given.shape, given.data)

    return Declared(given.name, given.datatype, given.shape, read)


def _in_bytes(given: InferInput, data: bytes) -> Declared:
    def read(spec: TensorSpec) -> Sequence[Value]:
        if given.data is not None:
            raise ValueError("the input has data and binary_data_size")
        return from_bytes(spec.datatype, given.shape, data)

    return Declared(given.name, given.datatype, given.shape, read)


def _wanted(contract: Contract, asked: InferRequest) -> list[_Wanted]:
    every = _flag(asked.parameters, "binary_data_output", default=False)
    forms = {output.name: _flag(output.parameters, "binary_data", default=every) for output in asked.outputs}
    for output in asked.outputs:
        contract.require_plain(output.name, output.parameters)
    specs = contract.requested([output.name for output in asked.outputs])
    return [_Wanted(spec, forms.get(spec.name, every)) for spec in specs]


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _refused_output(f"the parameter {name} must be true or false")
    return value


def _answer(contract: Contract, asked: InferRequest, wanted: Sequence[_Wanted], ranking: Ranking) -> Reply:
    values, outputs, binary = contract.answers(ranking), list[OutputTensor](), list[bytes]()
    for output in wanted:
        spec, array = output.spec, values[output.spec.name]
        parameters: dict[str, str | int] = {**contract.output_parameters(spec)}
        tensor: OutputTensor = {"name": spec.name, "datatype": spec.datatype, "shape": array.shape}
        if output.binary:
            binary.append(array.astype("<f4", copy=False).tobytes())
            parameters["binary_data_size"] = len(binary[-1])
        else:
            tensor["data"] = array.ravel().tolist()
        if parameters:
            tensor["parameters"] = parameters
        outputs.append(tensor)
    answer: InferAnswer = {
        "model_name": contract.name,
        "model_version": contract.version,
        "parameters": contract.parameters(ranking),
        "outputs": outputs,
    }
    if asked.id:
        answer["id"] = asked.id
    body = encode_json(answer)
    if not binary:
        return Reply(200, body, tae=ranking.tae, history=ranking.history)
    length = ((_HEADER.encode(), b"%d" % len(body)),)
    whole, kind = b"".join([body, *binary]), b"application/octet-stream"
    return Reply(200, whole, length, kind, tae=ranking.tae, history=ranking.history)


def _metadata(contract: Contract) -> ModelMetadata:
    def tensors(specs: Sequence[TensorSpec]) -> list[TensorMetadata]:
        return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]

    return {
        "name": contract.name,
        "versions": [contract.version],
        "platform": PLATFORM,
        "inputs": tensors(contract.inputs),
        "outputs": tensors(contract.outputs),
        "properties": contract.properties,
    }


def _refused_binary(field: str, problem: str) -> RefusedError:
    allowed = f"JSON of {_HEADER} bytes, then for each input with a binary_data_size as many bytes, and no more"
    return schema.refused([{"field": field[:80], "problem": problem, "allowed": allowed}])


def _refused_output(problem: str) -> RefusedError:
    allowed = "objects {name, parameters: {binary_data: true or false}}"
    return schema.refused([{"field": "outputs", "problem": problem, "allowed": allowed}])
