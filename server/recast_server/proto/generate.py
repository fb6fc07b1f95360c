"""Generates the ``_pb2`` modules beside this file: ``python -m recast_server.proto.generate`` (needs grpcio-tools)."""

from __future__ import annotations

import sys
from pathlib import Path

PROTO = "recast_server/proto/foundation.proto"
OPEN_INFERENCE = "recast_server/proto/open_inference.proto"
SERVER = Path(__file__).resolve().parents[2]


def main() -> int:
    """Runs protoc; returns its exit status."""
    from grpc_tools import protoc

    out = str(SERVER)
    return int(
        protoc.main(["protoc", f"-I{out}", f"--python_out={out}", f"--grpc_python_out={out}", PROTO, OPEN_INFERENCE])
    )


if __name__ == "__main__":
    sys.exit(main())
