"""A version serves the tasks that it was trained for: names come from the version, weights from the spec."""

from __future__ import annotations

from typing import Any

import pytest
from planning_simulator import Cluster, expert, foundation, measured

from recast_api.resources import ModelVersion

CLICK, LIKE = {"name": "click"}, {"name": "like", "weight": "0.5"}


def both(run: Any) -> Any:
    """Measurements of whatever the run was for."""
    names = [task.name for task in run.expert.tasks] if run.expert else ["click"]
    return [measured(0.7 - 0.01 * run.number, task=name) for name in names]


def serving(*tasks: dict[str, str], **spec: Any) -> Cluster:
    cluster = Cluster(foundation(), expert("ads", tasks=list(tasks), **spec))
    cluster.landing = both
    cluster.until(lambda c: c.em("ads").status.stable is not None)
    return cluster


def names(revision: Any) -> list[str]:
    return [task.name for task in revision.tasks]


@pytest.mark.parametrize(
    ("tasks", "measured_on", "served"),
    [
        (["click", "like"], ["click"], {"click", "like"}),
        ([], ["click"], {"click"}),
        ([], ["click", "like", "click"], {"click", "like"}),
        ([], [], set()),
    ],
)
def test_a_version_without_tasks_serves_those_it_was_measured_on(
    tasks: list[str], measured_on: list[str], served: set[str]
) -> None:
    cluster = serving(CLICK)
    spec = cluster.versions["em-ads-v1"].spec
    spec = spec.model_copy(update={"tasks": tasks, "measurements": [measured(task=name) for name in measured_on]})
    assert spec.served_tasks == served


def test_a_task_that_was_added_waits_for_the_version_that_learned_it_even_before_the_first_has_served() -> None:
    cluster = Cluster(foundation(), expert("ads", tasks=[CLICK]))
    cluster.landing = both
    cluster.until(lambda c: "em-ads-r1-a1" in c.jobs)
    cluster.edit("ads", tasks=[CLICK, LIKE])
    cluster.until(lambda c: c.em("ads").status.latest == 1)
    cluster.run(3)
    assert cluster.em("ads").status.canary is None, "v1 cannot score like"
    cluster.until(lambda c: c.em("ads").status.stable is not None)
    assert (cluster.em("ads").status.stable.version, names(cluster.em("ads").status.stable)) == (2, ["click", "like"])


def test_a_task_that_is_added_while_a_version_trains_is_served_by_the_next_one_only() -> None:
    cluster = serving(CLICK)
    cluster.edit("ads", training={"image": "trainer:2"})
    cluster.until(lambda c: "em-ads-r2-a1" in c.jobs)
    cluster.edit("ads", tasks=[CLICK, LIKE])
    seen: set[tuple[int, tuple[str, ...]]] = set()

    def watch(c: Cluster) -> None:
        for revision in (c.em("ads").status.stable, c.em("ads").status.canary):
            if revision is not None:
                seen.add((revision.version, tuple(names(revision))))

    cluster.until(lambda c: c.em("ads").status.stable.version == 3, watch=watch)
    assert seen == {(1, ("click",)), (3, ("click", "like"))}


def test_a_canary_that_runs_goes_on_with_the_tasks_that_it_began_with() -> None:
    cluster = serving(CLICK)
    cluster.edit("ads", training={"image": "trainer:2"})
    cluster.until(lambda c: c.em("ads").status.canary is not None)
    revision = cluster.em("ads").status.canary.revision
    cluster.edit("ads", tasks=[CLICK, LIKE])
    cluster.run(2)
    assert cluster.em("ads").status.canary.revision == revision
    assert names(cluster.em("ads").status.canary) == ["click"]


def test_a_task_that_was_taken_away_and_a_changed_weight_need_no_other_version_to_begin() -> None:
    cluster = Cluster(foundation(), expert("ads", tasks=[CLICK, LIKE]))
    cluster.landing = both
    cluster.until(lambda c: "em-ads-r1-a1" in c.jobs)
    cluster.edit("ads", tasks=[{"name": "click", "weight": "2"}], refresh={"triggers": []})
    cluster.until(lambda c: c.em("ads").status.stable is not None)
    stable = cluster.em("ads").status.stable
    assert (stable.version, [(task.name, task.weight) for task in stable.tasks]) == (1, [("click", "2")])


def test_an_expert_that_never_served_trains_what_its_versions_cannot_serve_whatever_its_triggers() -> None:
    cluster = Cluster(foundation(), expert("ads", tasks=[CLICK]))
    cluster.landing = both
    cluster.until(lambda c: "em-ads-r1-a1" in c.jobs)
    cluster.edit("ads", tasks=[CLICK, LIKE], refresh={"triggers": []})
    cluster.until(lambda c: c.em("ads").status.stable is not None)
    assert cluster.em("ads").status.stable.version == 2


def test_a_version_of_an_older_trainer_says_by_its_measurements_what_it_can_serve() -> None:
    cluster = serving(CLICK)
    cluster.edit("ads", tasks=[CLICK, LIKE])
    cluster.until(lambda c: "em-ads-v2" in c.versions)
    landed = cluster.versions["em-ads-v2"]
    body = landed.spec.wire() | {"tasks": []}
    cluster.versions["em-ads-v2"] = ModelVersion.model_validate(
        {"metadata": landed.metadata.model_dump(by_alias=True), "spec": body}
    )
    cluster.until(lambda c: c.em("ads").status.stable.version == 2)
    assert names(cluster.em("ads").status.stable) == ["click", "like"]
