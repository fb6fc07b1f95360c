"""A world on the real node, told through the demo's own story and asked in given/when/then.

One world serves all loop tests: it is the demo's, in a namespace of its own, built from ``examples/``. What a test
changes it makes under new names, or puts back.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
import yaml

from dev.demo import diagnose, render
from dev.demo.live import WaitError
from dev.demo.story import Story
from dev.demo.target import TargetError
from recast_api.resources import Condition, ExpertModel, FoundationModel
from recast_cli import words
from recast_cli.world import World

NAMESPACE = "recast-e2e"


@dataclass(frozen=True)
class Loop:
    """The running world."""

    story: Story

    @contextmanager
    def explained(self) -> Iterator[None]:
        """A wait that runs out fails the test with conditions, logs and events."""
        try:
            yield
        except (WaitError, TargetError) as error:
            self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        """Fail the test with everything that explains it."""
        pytest.fail(f"{error}\n{diagnose.report(self.story.cluster, self.story.live.world)}")

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """kubectl in the world's namespace."""
        return self.story.cluster.run("-n", self.story.cluster.namespace, *arguments, stdin=stdin, check=check)

    def example(self, name: str, rename: str | None = None, **fields: Any) -> dict[str, Any]:
        """An example's object for this cluster; ``fields`` are dotted paths with ``__`` for the dot."""
        text = render.render(self.story.scenario.file(name).read_text(), self.story.cluster.images)
        found: dict[str, Any] = next(iter(yaml.safe_load_all(text)))
        if rename:
            found["metadata"]["name"] = rename
        return edit(found, **fields)

    def when_applied(self, *objects: dict[str, Any]) -> Loop:
        """Apply objects."""
        bundle = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(bundle))
        return self

    def then(self, what: str, predicate: Callable[[World], bool], within: float = 60) -> World:
        """Wait for a watched state, or fail with everything that explains it."""
        try:
            return self.story.live.wait(what, predicate, within)
        except WaitError as error:
            self.fail(error)

    def then_condition(self, model: str, kind: str, status: str, reason: str | None, within: float = 90) -> Condition:
        """Wait for a condition of a foundation or an expert and return it."""

        def holds(world: World) -> bool:
            found = condition_of(world, model, kind)
            return found is not None and found.status == status and reason in (None, found.reason)

        world = self.then(f"{model} has {kind}={status} {reason or ''}", holds, within)
        found = condition_of(world, model, kind)
        assert found is not None
        return found


def condition_of(world: World, model: str, kind: str) -> Condition | None:
    """A condition of the model of that name, of either kind."""
    found: ExpertModel | FoundationModel | None = world.expert(model) or world.foundation(model)
    return words.condition(found.status.conditions, kind) if found else None


def edit(source: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A copy with fields set: ``spec__data__path="x"``."""
    result = copy.deepcopy(source)
    for path, value in fields.items():
        *parents, last = path.split("__")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return result
