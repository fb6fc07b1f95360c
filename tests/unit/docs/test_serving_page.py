"""docs/serving-api.md has every path, header, status and reason of the OpenAPI document, and its requests are such."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from recast_api import names
from recast_api.resources.version import FoundationPin
from recast_server.expert import batch, impressions_api, openapi, schema
from recast_server.expert.edge import Identity
from recast_server.expert.open_inference import rest
from recast_server.expert.open_inference.contract import Contract

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "serving-api.md").read_text(encoding="utf-8")
PIN = FoundationPin(name="home-fm", version=3, lineage=2, digest="sha256:" + "ab" * 32)
IDENTITY = Identity("reels", "reels", "0123456789", 7, PIN, ("click", "like"))
BODIES = re.findall(r"curl -s http://127.0.0.1:8080(\S+) -d '(.*?)'", PAGE, re.DOTALL)


def test_every_status_and_its_reasons_are_on_the_page() -> None:
    rows = dict(re.findall(r"^\| (\d{3}) \| (.*) \|$", PAGE, re.MULTILINE))
    assert {int(status): sorted(re.findall(r"\[(\w+)\]", reasons)) for status, reasons in rows.items() if reasons} == {
        status: sorted(reasons) for status, reasons in openapi.REFUSALS.items()
    }


def test_every_path_and_header_is_on_the_page() -> None:
    document: dict[str, Any] = openapi.document(IDENTITY)
    paths = {path.replace("{model}", "<model>") for path in document["paths"] if "{version}" not in path}
    assert [path for path in paths if path not in PAGE] == []
    assert [name for name in document["components"]["headers"] if f"`{name}`" not in PAGE] == []
    assert str(names.EXPERT_GRPC_PORT) in PAGE


def test_every_request_on_the_page_is_one() -> None:
    assert [path for path, _ in BODIES] == ["/v1/rank", "/v1/impressions", "/v2/models/reels/infer"]
    (_, rank), (_, shown), (_, infer) = BODIES
    assert [item.item for item in impressions_api.parse(shown.encode()).items] == [1007, 1014]
    assert schema.parse(rank.encode()).candidates == [1000, 1007, 1014]
    _, declared = rest.parse(infer.encode(), None)
    assert Contract(IDENTITY).request(declared).candidates == [1000, 1007, 1014]
    (several,) = re.findall(r'^({"requests".*})$', PAGE, re.MULTILINE)
    assert len(batch.parse(several.encode())) == 2


def test_every_answer_on_the_page_is_json() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    assert all(json.loads(block) for block in blocks)
