"""The world of the loop tests, stage by stage: each stage is made once, by the first test that needs it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import pytest
from loop import NAMESPACE, Loop

from dev.demo import install, story
from dev.demo.scenario import SYNTHETIC
from dev.demo.screen import Screen
from dev.demo.target import Cluster, TargetError, choose
from dev.demo.traffic import Counts

MARKER = ("configmap", "recast-dev-cluster", "-n", "kube-system")


@pytest.fixture(scope="session")
def marked_cluster() -> Cluster:
    """The cluster of ``make cluster``, and no other: these tests delete, kill and overload."""
    try:
        cluster = dataclasses.replace(choose({"HOME": os.environ.get("HOME", "/")}), namespace=NAMESPACE)
        cluster.run("get", *MARKER)
    except TargetError as error:
        message = f"needs the cluster that make cluster starts, with its marker: {error}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return cluster


@pytest.fixture(scope="session")
def loop(marked_cluster: Cluster) -> Iterator[Loop]:
    """The chart, the volumes and the data; nothing applied yet."""
    questions = install.install(marked_cluster, SYNTHETIC)
    demo = story.begin(marked_cluster, SYNTHETIC, questions, Screen())
    yield Loop(demo)
    demo.stop_traffic()
    demo.live.stop()
    install.remove_models(marked_cluster)


@pytest.fixture(scope="session")
def first(loop: Loop) -> Loop:
    """Given a foundation and three experts, trained and served, with traffic to each."""
    with loop.explained():
        loop.story.first_versions()
        loop.story.served()
    return loop


@pytest.fixture(scope="session")
def second(first: Loop) -> Loop:
    """Given a second foundation lineage that every expert has followed."""
    with first.explained():
        first.story.second_foundation()
    return first


@pytest.fixture(scope="session")
def after_bad_change(second: Loop) -> Loop:
    """Given a bad image that was rolled back and a worse version that was rejected, and the good specs again."""
    with second.explained():
        second.story.bad_change()
        second.story.retired()
    return second


@pytest.fixture(scope="session")
def counts(after_bad_change: Loop) -> Counts:
    """What the client saw up to here; traffic goes on."""
    return after_bad_change.story.traffic.counts
