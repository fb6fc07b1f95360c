"""``python -m recast_trainer``: what a training Job's containers run, and the same work by hand.

Every way to fail ends in a termination message (:mod:`recast_trainer.failures`) and a non-zero exit. Heavy imports wait
until arguments and configuration are known to be right: torch alone takes seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from recast_api.names import RUN_ENV
from recast_api.run import TERMINATION_LOG, RecastError, TrainingRun
from recast_trainer.failures import report


def main(arguments: Sequence[str] | None = None, *, termination_log: Path = Path(TERMINATION_LOG)) -> int:
    """The process's exit status: 0, or 1 with a termination message written."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        report(error, termination_log)
        return 1
    return 0


def load_run(path: Path | None) -> TrainingRun:
    """The run's configuration, from a file or the environment. Raises ``BadRun``."""
    source = str(path) if path else f"environment variable {RUN_ENV}"
    text = path.read_text() if path else os.environ.get(RUN_ENV, "")
    if not text:
        raise RecastError("BadRun", f"{source} is empty; it holds the run as JSON (recast_api.run.TrainingRun)")
    try:
        return TrainingRun.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecastError(
            "BadRun", f"{source}: {where}: {first['msg']}; are operator and trainer one release?"
        ) from error


def _run(options: argparse.Namespace) -> None:
    run = load_run(options.file)
    from recast_trainer.publishing.version import ClusterVersionApi
    from recast_trainer.run import execute
    from recast_trainer.training.process_group import join_process_group

    with join_process_group() as group:
        execute(run, group, None if options.no_publish else ClusterVersionApi)


def _evaluate(options: argparse.Namespace) -> None:
    from recast_trainer.evaluation.report import evaluate

    evaluate(options.artifact, options.foundation, options.data)


def _compare(options: argparse.Namespace) -> None:
    from recast_trainer.evaluation.report import compare

    compare(options.foundation, options.data, epochs=options.epochs, batch_size=options.batch_size, seed=options.seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recast_trainer", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help=f"train and land one version, as {RUN_ENV} says; start it with torchrun")
    run.add_argument("--file", type=Path, help=f"read the run from a JSON file instead of {RUN_ENV}")
    run.add_argument("--no-publish", action="store_true", help="land the artefact only; create no ModelVersion")
    run.set_defaults(command=_run)

    evaluate = commands.add_parser("evaluate", help="measure a landed version on data that it never learned")
    evaluate.add_argument("artifact", type=Path, help="folder of the version")
    evaluate.add_argument("--foundation", type=Path, help="folder of the foundation version that an expert reads")
    evaluate.add_argument("--data", type=Path, required=True, help="folder of the data set")
    evaluate.set_defaults(command=_evaluate)

    compare = commands.add_parser("compare", help="NE of each surface's expert with TAE and without, per surface")
    compare.add_argument("foundation", type=Path, help="folder of a foundation version, with its TAE log")
    compare.add_argument("--data", type=Path, required=True, help="folder of the data set")
    compare.add_argument("--epochs", type=int, default=2)
    compare.add_argument("--batch-size", type=int, default=32)
    compare.add_argument("--seed", type=int, default=0)
    compare.set_defaults(command=_compare)
    return parser


if __name__ == "__main__":
    sys.exit(main())
