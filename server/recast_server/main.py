"""``python -m recast_server``: reads ``RECAST_SERVER`` and becomes the server it describes.

A pod that must not start (a damaged artefact, a foundation that is not its pair) ends with status 1 and one JSON
object ``{reason, retryable, message}`` in its termination log and on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from recast_api import names
from recast_api.manifest import Manifest, load_verified
from recast_api.run import TERMINATION_LOG, RecastError
from recast_api.server import ExpertServerConfig, FoundationServerConfig
from recast_server.expert.ranker import Ranker
from recast_server.local import local_config
from recast_server.runtime import logs
from recast_server.runtime.cpu import THREADS_ENV, model_threads
from recast_server.runtime.process import Ports, run_server

ServerConfig = Annotated[FoundationServerConfig | ExpertServerConfig, Field(discriminator="kind")]
Decorate = Callable[[Ranker], Ranker]


def main(
    argv: Sequence[str] | None = None,
    *,
    decorate: Decorate | None = None,
    termination_log: Path = Path(TERMINATION_LOG),
) -> int:
    """Runs the server; returns the exit status. ``decorate`` wraps an expert's ranker, to add rules of one's own."""
    arguments = _parser().parse_args(argv)
    with logs.configured() as log:
        try:
            config = (
                read_config(os.environ.get(names.SERVER_ENV))
                if arguments.artifact is None
                else local_config(arguments.artifact, arguments.foundation)
            )
            if arguments.check:
                print(_pair(config, verify(config)))
            else:
                _serve(config, arguments, decorate, log)
            return 0
        except RecastError as error:
            failure = error
        except OSError as error:
            failure = RecastError("ServerFailed", str(error), retryable=True)
        except Exception as error:
            logging.getLogger("recast").exception("the server failed")
            failure = RecastError("ServerFailed", f"{type(error).__name__}: {error}; the log has the cause")
        return _terminate(failure, termination_log, log)


def read_config(text: str | None) -> FoundationServerConfig | ExpertServerConfig:
    """The configuration in the environment. Raises :class:`RecastError` with reason ``InvalidConfig``."""
    if text is None:
        raise RecastError(
            "InvalidConfig",
            f"the environment has no {names.SERVER_ENV}: the operator sets it in pods; elsewhere give --artifact",
        )
    try:
        adapter: TypeAdapter[FoundationServerConfig | ExpertServerConfig] = TypeAdapter(ServerConfig)
        return adapter.validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise RecastError(
            "InvalidConfig",
            f"{names.SERVER_ENV} is wrong: {problems}. Operator and server must be of one release",
        ) from error


def verify(config: FoundationServerConfig | ExpertServerConfig) -> Manifest:
    """The manifest of the configured artefact, every byte of which is as its digest says, and whose pair is the pin's.

    Raises :class:`RecastError`.
    """
    artifact = config.artifact
    manifest = load_verified(Path(artifact.root) / artifact.path, artifact.digest)
    if (manifest.kind, manifest.model, manifest.number, manifest.lineage) != (
        config.kind,
        config.model,
        artifact.version,
        artifact.lineage,
    ):
        raise RecastError(
            "ArtifactMismatch",
            f"{artifact.path} holds {manifest.kind} {manifest.model} v{manifest.number} (lineage {manifest.lineage}),"
            f" expected {config.kind} {config.model} v{artifact.version} (lineage {artifact.lineage})",
        )
    if isinstance(config, ExpertServerConfig) and manifest.foundation != config.foundation:
        trained, pinned = manifest.foundation, config.foundation
        named = f"{trained.name} v{trained.version} ({trained.digest})" if trained else "no foundation"
        raise RecastError(
            "PairMismatch",
            f"{config.model} v{artifact.version} was trained with {named}, but is configured to read {pinned.name}"
            f" v{pinned.version} ({pinned.digest}): an expert serves only with the foundation it was trained with",
        )
    return manifest


def _serve(
    config: FoundationServerConfig | ExpertServerConfig,
    arguments: argparse.Namespace,
    decorate: Decorate | None,
    log: logs.LogWriter,
) -> None:
    # Before PyTorch is imported: OpenMP reads this once.
    os.environ[THREADS_ENV] = str(model_threads())
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its lines are not JSON; failed calls are counted by us
    import uvloop

    if isinstance(config, FoundationServerConfig):
        from recast_server.foundation.serve import FoundationServer

        ports = Ports(arguments.host, _port(arguments.port, names.FOUNDATION_GRPC_PORT), arguments.admin_port)
        serving = run_server(
            lambda runtime: FoundationServer(config, lambda: verify(config), runtime), ports, config.grace_seconds, log
        )
    else:
        from recast_server.expert.serve import ExpertServer

        traffic = _port(arguments.port, names.EXPERT_PORT)
        ports = Ports(arguments.host, traffic, arguments.admin_port, arguments.grpc_port)
        serving = run_server(
            lambda runtime: ExpertServer(config, lambda: verify(config), runtime, decorate),
            ports,
            config.grace_seconds,
            log,
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)


def _port(asked: int | None, default: int) -> int:
    return default if asked is None else asked


def _pair(config: FoundationServerConfig | ExpertServerConfig, manifest: Manifest) -> str:
    own = f"{config.model} v{manifest.number} lineage {manifest.lineage} {manifest.digest}"
    if isinstance(config, FoundationServerConfig):
        return f"{own}: {len(manifest.files)} files verified"
    pin = config.foundation
    return (
        f"{own} with {pin.name} v{pin.version} lineage {pin.lineage} {pin.digest}: {len(manifest.files)} files verified"
    )


def _terminate(error: RecastError, termination_log: Path, log: logs.LogWriter) -> int:
    text = error.termination.encode()
    if termination_log.exists():  # made by the kubelet; outside a pod there is none
        termination_log.write_text(text)
    log.line(text)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recast_server",
        description="Serves one version of a foundation (gRPC) or of an expert (HTTP and gRPC).",
        epilog=f"In pods the operator sets the environment variable {names.SERVER_ENV} to a configuration in JSON;"
        " elsewhere --artifact is enough.",
    )
    parser.add_argument("--artifact", type=Path, metavar="FOLDER", help="serve the version in this folder")
    parser.add_argument(
        "--foundation",
        default=f"127.0.0.1:{names.FOUNDATION_GRPC_PORT}",
        metavar="HOST:PORT",
        help="with --artifact, where an expert asks its foundation (default: %(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="verify the artefact, print the pair and exit")
    parser.add_argument("--host", default="", help="address to listen on (default: every interface)")
    parser.add_argument(
        "--port",
        type=int,
        help=f"port for traffic, 0 for a free one (default: {names.EXPERT_PORT} for an expert,"
        f" {names.FOUNDATION_GRPC_PORT} for a foundation)",
    )
    parser.add_argument(
        "--admin-port",
        type=int,
        default=names.ADMIN_PORT,
        help=f"port for health and metrics, 0 for a free one (default: {names.ADMIN_PORT})",
    )
    parser.add_argument(
        "--grpc-port",
        type=int,
        default=names.EXPERT_GRPC_PORT,
        help="an expert's port for the Open Inference Protocol over gRPC, 0 for a free one"
        f" (default: {names.EXPERT_GRPC_PORT})",
    )
    return parser
