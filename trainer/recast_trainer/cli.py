"""``recast``: what a training Job's containers run (``python -m recast_trainer run``), and the same work by hand.

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
from recast_trainer.data.commands import DESCRIPTION, add_commands
from recast_trainer.failures import report


def main(arguments: Sequence[str] | None = None, *, termination_log: Path = Path(TERMINATION_LOG)) -> int:
    """The process's exit status: 0, or 1 with a termination message written."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
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


def _train(options: argparse.Namespace) -> None:
    from recast_trainer.local import Models, local_run, read_models

    models, data = Models(options.models.absolute()), options.data.absolute()
    chosen = [model for model in read_models(options.file) if options.only in (None, model.metadata.name)]
    if not chosen:
        raise RecastError("BadSpec", f"{options.file} holds no model {options.only}; leave out --only for all")
    from recast_trainer.run import execute
    from recast_trainer.training.process_group import join_process_group

    with join_process_group() as group:
        for model in chosen:
            group.barrier()  # what the next one reads has landed
            run = local_run(model, data, models, options.answers.absolute() if options.answers else None)
            group.barrier()  # nobody may land before everybody has counted the versions
            group.log(f"{run.kind} {run.model} v{run.number}, in {models.folder(run.kind, run.model, run.number)}")
            execute(run, group, None)


def _evaluate(options: argparse.Namespace) -> None:
    from recast_trainer.evaluation.report import evaluate

    evaluate(options.artifact, options.foundation, options.data)


def _compare(options: argparse.Namespace) -> None:
    from recast_trainer.evaluation.compare.settings import Settings, read_settings

    settings = read_settings(options.settings) if options.settings else Settings()
    from recast_trainer.evaluation.compare.comparison import compare
    from recast_trainer.evaluation.compare.markdown import markdown
    from recast_trainer.evaluation.compare.reports import write_reports
    from recast_trainer.training.process_group import join_process_group

    with join_process_group() as group:
        found = compare(options.foundation, options.data, settings, against=options.against, group=group, say=group.log)
        if group.is_leader:
            print("\n" + markdown(found))
            print("written: " + ", ".join(map(str, write_reports(found, options.out))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recast", description="Train and measure foundation and expert models, with and without a cluster."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train the models of a YAML file on this machine, without a cluster",
        description="Train the models of a YAML file, the one that you would apply to a cluster, on this machine; "
        "foundations first, then the experts that read them. Each lands as the next version in the folder of models, "
        "measured against the one before it. A run that was cut off goes on where it stood. For several processes "
        "start it with torchrun.",
    )
    train.add_argument("file", type=Path, help="YAML with FoundationModels and ExpertModels")
    train.add_argument(
        "--data", type=Path, required=True, help="folder of the data set; stands in for spec.data.path and its claim"
    )
    train.add_argument(
        "--models", type=Path, default=Path("models"), help="folder that versions land in (default: %(default)s)"
    )
    train.add_argument(
        "--answers",
        type=Path,
        metavar="FOLDER",
        help="experts read the embeddings that servers logged, as `recast data from-answers` wrote them to this folder",
    )
    train.add_argument("--only", metavar="NAME", help="train this model of the file alone")
    train.set_defaults(run=_train)

    data = commands.add_parser("data", help="write, describe and sample data sets", description=DESCRIPTION)
    add_commands(data)

    evaluate = commands.add_parser("eval", help="measure landed versions")
    measures = evaluate.add_subparsers(required=True, metavar="COMMAND")

    version = measures.add_parser("version", help="measure a landed version on data that it never learned")
    version.add_argument("artifact", type=Path, help="folder of the version")
    version.add_argument("--foundation", type=Path, help="folder of the foundation version that an expert reads")
    version.add_argument("--data", type=Path, required=True, help="folder of the data set")
    version.set_defaults(run=_evaluate)

    compare = measures.add_parser(
        "compare",
        help="what a foundation's embeddings are worth to each surface's expert",
        description="For each surface, train experts that read the foundation's embeddings (TAE), those of others, "
        "and none, and measure them beside the foundation's own heads, the base rate and, where the data have it, the "
        "true probability. Each trained arm is tuned on the same candidates, on rows before the held-out ones, and "
        "trained with several seeds for equally many steps. Writes comparison.md, .html, .svg and .json.",
    )
    compare.add_argument("foundation", type=Path, help="folder of a foundation version, with its TAE log")
    compare.add_argument("--data", type=Path, required=True, help="folder of the data set that it was trained on")
    compare.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="another foundation version, trained on the same data: also train experts that read it, and print the "
        "transfer ratio, the experts' gap over the foundations'",
    )
    compare.add_argument(
        "--settings", type=Path, metavar="FILE", help="YAML with seeds, candidates and more (examples/compare.yaml)"
    )
    compare.add_argument(
        "--out", type=Path, default=Path("comparison"), help="folder of the reports (default: %(default)s)"
    )
    compare.set_defaults(run=_compare)

    run = commands.add_parser("run", help=f"what a training Job runs: one version, as {RUN_ENV} says, under torchrun")
    run.add_argument("--file", type=Path, help=f"read the run from a JSON file instead of {RUN_ENV}")
    run.add_argument("--no-publish", action="store_true", help="land the artefact only; create no ModelVersion")
    run.set_defaults(run=_run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
