"""A comparison as Markdown: the tables, and what the figures are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from recast_trainer.evaluation.compare.results import ArmResult, Comparison, Gap, SurfaceResult, counted
from recast_trainer.evaluation.compare.statistics import Estimate

DASH = "—"


def markdown(found: Comparison, picture: str | None = None) -> str:
    """The whole report; ``picture`` is the address of its picture."""
    blocks = [f"# {title(found)}", *notes(found)]
    blocks += [f"![NE of each arm]({picture})"] if picture else []
    for surface in found.surfaces:
        blocks += [f"## {surface.surface}", about(surface)]
        blocks += [table(*each) for each in tables(surface)]
    return "\n\n".join(blocks) + "\n"


def title(found: Comparison) -> str:
    """What is compared."""
    return f"What embeddings of {found.foundation} are worth" + (f", beside {found.against}" if found.against else "")


def notes(found: Comparison) -> list[str]:
    """What the figures are, a paragraph each."""
    seeds = len(found.seeds)
    means = [
        "Normalised entropy (NE): log loss over that of the held-out rows' own base rate; lower is better. "
        f"In brackets 95 % intervals over {f'{seeds} training seeds and ' if seeds > 1 else ''}users, from "
        f"{found.settings['resamples']:,} draws of both with replacement.",
    ]
    if any(surface.tried for surface in found.surfaces):
        means.append(
            "Every trained arm had the same candidates, tried with one seed on rows before the held-out ones, and was "
            "trained with its own best rate and the number of epochs that suits all arms best together."
        )
    if seeds == 1:
        means.append("One seed: the intervals do not know what another training would have come to.")
    return means


def about(surface: SurfaceResult) -> str:
    """One line on the rows."""
    positives = ", ".join(f"{count:,} {task}" for task, count in surface.positives.items())
    return (
        f"{surface.rows:,} rows of {surface.users:,} users held out ({positives}); {surface.learned:,} rows learned, "
        f"{counted(surface.epochs, 'epoch')}" + (f"; tuned on {surface.tuning_rows:,} rows." if surface.tried else ".")
    )


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def tables(surface: SurfaceResult) -> Iterator[Table]:
    """Head and lines of each table: arms, gaps, the transfer ratio where there is one, the tuning."""
    tasks = surface.tasks
    yield (
        ["arm", "rate", "steps", *(f"NE, {task}" for task in tasks), "reached", *_calibrated(surface)],
        [_arm(arm, tasks) for arm in surface.arms],
    )
    yield ["change of NE", *tasks], [_gap(gap, tasks) for gap in surface.gaps]
    if surface.transfer is not None:
        yield (
            ["transfer ratio", *tasks],
            [["experts' gap over foundations' gap", *(_ratio(surface.transfer[t]) for t in tasks)]],
        )
    if surface.tried:
        yield _tuning(surface)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _calibrated(surface: SurfaceResult) -> list[str]:
    return [f"calibration, {task}" for task in surface.arms[0].calibration]


def _arm(arm: ArmResult, tasks: Sequence[str]) -> list[str]:
    steps = sorted(set(arm.steps))
    taken = f"{steps[0]:,}" + (f" to {steps[-1]:,}" if len(steps) > 1 else "") if steps else DASH
    reached = arm.reachable[tasks[-1]]
    return [
        arm.arm,
        arm.learning_rate or DASH,
        taken,
        *(estimate(arm.ne[task], "{:.4f}".format) for task in tasks),
        f"{round(100 * reached)} %" if math.isfinite(reached) else DASH,
        *(f"{value:.3f}" if math.isfinite(value) else DASH for value in arm.calibration.values()),
    ]


def _gap(gap: Gap, tasks: Sequence[str]) -> list[str]:
    cells = [
        f"{estimate(gap.difference[task], '{:+.4f}'.format)}, {estimate(gap.relative[task], _percent, ' %')}"
        for task in tasks
    ]
    return [f"{gap.arm} against {gap.against}", *cells]


def _ratio(found: Estimate | None) -> str:
    return estimate(found, "{:.2f}".format) if found else f"{DASH} (the foundations' gap includes 0)"


def _tuning(surface: SurfaceResult) -> Table:
    arms = list(dict.fromkeys(each.arm for each in surface.tried))
    cells = {
        (each.learning_rate, each.epochs, each.arm): f"{each.ne:.4f}" if math.isfinite(each.ne) else "diverged"
        for each in surface.tried
    }
    candidates = list(dict.fromkeys((each.learning_rate, each.epochs) for each in surface.tried))
    return (
        ["NE when tuning: rate, epochs", *arms],
        [[f"{rate}, {epochs}", *(cells[rate, epochs, arm] for arm in arms)] for rate, epochs in candidates],
    )


def _percent(share: float) -> str:
    return f"{100 * share:+.2f}"


def estimate(found: Estimate, show: Callable[[float], str], unit: str = "") -> str:
    """A figure with its interval; a dash where it is not defined."""
    if not math.isfinite(found.value):
        return DASH
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{show(found.value)}{unit}"
    return f"{show(found.value)}{unit} [{show(found.low)}, {show(found.high)}]"
