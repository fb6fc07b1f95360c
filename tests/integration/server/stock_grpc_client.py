"""The stock gRPC client asks one expert, as a program: ``stock_grpc_client.py HOST:PORT MODEL USER TIME ITEM...``.

It is a process of its own since its generated messages and the server's have the protocol's names, and one process can
hold one of each name. Prints what it was told as JSON.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.grpc as stock
from tritonclient.utils import InferenceServerException


def main() -> None:
    address, model, user, time, *items = sys.argv[1:]
    client = stock.InferenceServerClient(address)

    def infer(asked_model: str, candidates: np.ndarray, **options: object) -> stock.InferResult:
        tensors = {"user": np.array([int(user)]), "candidates": candidates, "time": np.array([int(time)])}
        inputs = []
        for name, array in tensors.items():
            inputs.append(stock.InferInput(name, list(array.shape), "INT64"))
            inputs[-1].set_data_from_numpy(array.astype(np.int64))
        return client.infer(asked_model, inputs, client_timeout=30.0, **options)

    def refusal(asked_model: str, candidates: np.ndarray) -> list[str | None]:
        try:
            infer(asked_model, candidates)
        except InferenceServerException as error:
            return [error.status(), error.message()]
        raise AssertionError("it was answered")

    candidates = np.array([[int(item) for item in items]])
    result = infer(model, candidates, request_id="seven")
    one = infer(model, candidates, outputs=[stock.InferRequestedOutput("scores")], compression_algorithm="gzip")
    metadata = client.get_model_metadata(model, as_json=True)
    told = {
        "live": client.is_server_live(),
        "ready": [client.is_server_ready(), client.is_model_ready(model), client.is_model_ready(model, "9")],
        "server": client.get_server_metadata(as_json=True),
        "outputs": metadata["outputs"],
        "id": result.get_response().id,
        "scores": result.as_numpy("scores").tolist(),
        "probabilities": result.as_numpy("probabilities").tolist(),
        "only": [one.as_numpy("scores").tolist(), one.as_numpy("probabilities") is None],
        "refused": [refusal(model, candidates[0]), refusal("other", candidates)],
    }
    print(json.dumps(told))


main()
