"""What the demo makes of counts, clusters, example files and states: all of its judgements, without a cluster."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from dev.demo import facts, install, questions, reconcile, render, scenario, target, volumes
from dev.demo.traffic import Counts, reports
from recast_api.names import RUN_AS_USER
from recast_api.resources import ExpertModel, FoundationModel, ModelVersion
from recast_cli.world import World, parse

COUNTS = Counts(
    by={
        ("reels", "good", "200", "fresh"): 90,
        ("reels", "good", "200", "absent"): 10,
        ("reels", "bad", "200", "fresh"): 8,
        ("reels", "bad", "500", ""): 2,
    }
)


def series(model: str, revision: str, code: str, count: int) -> dict[str, Any]:
    return {"metric": {"model": model, "revision": revision, "code": code}, "value": [0, str(count)]}


def answer(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"result": list(entries)}}


def test_failures_are_told_apart_by_the_revision_that_made_them() -> None:
    assert (COUNTS.ok(), COUNTS.failed(), COUNTS.failed({"bad"}), COUNTS.failed({"good"})) == (108, 2, 2, 0)
    assert COUNTS.sentence({"bad"}) == "traffic    108 ok · 2 failed (all the bad canary's) · fresh TAE 90.0%"
    assert "(2 NOT the bad canary's)" in COUNTS.sentence(set())


def test_the_fresh_share_leaves_the_bad_revision_out_and_is_zero_without_answers() -> None:
    assert COUNTS.fresh_share({"bad"}) == pytest.approx(0.9)
    assert Counts().fresh_share() == 0.0


def test_counts_survive_the_way_through_a_report_and_banners_are_passed_over() -> None:
    report = {"counts": [["reels", "good", "200", "fresh", 3]], "notSent": 1, "slow": 2, "failures": []}
    parsed = [Counts.parse(entry) for entry in reports(["If you don't see a prompt\n", json.dumps(report) + "\n"])]
    assert parsed == [Counts(by={("reels", "good", "200", "fresh"): 3}, not_sent=1, slow=2, failures=[])]


def test_witnesses_that_agree_on_every_revision_have_no_difference() -> None:
    servers = reconcile.server_totals(
        answer(
            series("reels", "good", "200", 100),
            series("reels", "bad", "200", 8),
            series("reels", "bad", "500", 2),
            series("reels", "never-asked", "200", 0),
        )
    )
    assert reconcile.compare(COUNTS, servers) == []


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        (
            {("reels", "good"): (99, 0), ("reels", "bad"): (8, 2)},
            "reels good: client 100 good + 0 bad, servers 99 good",
        ),
        ({("reels", "good"): (100, 0)}, "reels bad: client 8 good + 2 bad, servers 0 good + 0 bad"),
        (
            {("reels", "good"): (100, 0), ("reels", "bad"): (8, 2), ("ads", "x"): (1, 0)},
            "ads x: client 0 good + 0 bad, servers 1 good + 0 bad",
        ),
    ],
)
def test_a_request_that_only_one_witness_saw_is_a_difference(
    servers: dict[tuple[str, str], tuple[int, int]], expected: str
) -> None:
    differences = reconcile.compare(COUNTS, servers)
    assert len(differences) == 1
    assert str(differences[0]).startswith(expected)


def test_a_failure_without_a_revision_header_cannot_be_reconciled_away() -> None:
    counts = Counts(by={("reels", "", "no answer in time", ""): 1})
    assert [str(entry) for entry in reconcile.compare(counts, {})] == [
        "reels without a revision header: client 0 good + 1 bad, servers 0 good + 0 bad"
    ]


IMAGES = {part: f"local/{part}:abc" for part in target.PARTS}
FILES = sorted(
    path
    for path in scenario.EXAMPLES.rglob("*.yaml")
    # Two are no objects of a cluster: settings of a command, and values of somebody else's chart.
    if "bad-server" not in path.parts and path.name not in ("compare.yaml", "prometheus-adapter.yaml")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(scenario.EXAMPLES)))
def test_every_example_is_valid_names_no_namespace_and_only_known_images(path: Path) -> None:
    text = render.render(path.read_text(), IMAGES, "shared")
    for document in yaml.safe_load_all(text):
        assert "namespace" not in document["metadata"]
        if document["apiVersion"].startswith("recast.dev/"):
            resource = parse(document)
            assert isinstance(resource, FoundationModel | ExpertModel)
            assert resource.spec.serving.image in IMAGES.values()
            assert resource.spec.training.image in IMAGES.values()
        if document["kind"] == "PersistentVolumeClaim":
            assert document["spec"]["storageClassName"] == "shared"


@pytest.mark.parametrize("chosen", scenario.SCENARIOS.values(), ids=lambda chosen: chosen.name)
def test_every_file_of_a_scenario_exists(chosen: scenario.Scenario) -> None:
    names = [*chosen.first_files, f"{chosen.foundation}-v2.yaml", f"{chosen.foundation}-worse.yaml"]
    names += [f"{chosen.pilot}-bad-image.yaml", *([chosen.stream_job] if chosen.stream_job else [])]
    assert [name for name in names if not chosen.file(name).exists()] == []


def test_an_image_that_the_cluster_lacks_is_named_with_what_to_do() -> None:
    with pytest.raises(
        render.UnknownImageError, match=r"no image for recast.invalid/trainer: known are server; .*TRAINER_IMAGE"
    ):
        render.render("image: recast.invalid/trainer:0.1.0", {"server": "x"})


@pytest.mark.parametrize("chosen", scenario.SCENARIOS.values(), ids=lambda chosen: chosen.name)
def test_the_worse_foundation_is_the_second_one_with_far_too_high_a_learning_rate(
    chosen: scenario.Scenario,
) -> None:
    def load(name: str) -> dict[str, Any]:
        return next(iter(yaml.safe_load_all(chosen.file(name).read_text())))

    good, worse = load(f"{chosen.foundation}-v2.yaml"), load(f"{chosen.foundation}-worse.yaml")
    right, wrong = (Decimal(each["spec"]["training"].pop("learningRate")) for each in (good, worse))
    assert wrong >= 30 * right
    assert good == worse


def test_a_worse_foundation_is_told_by_its_verdict_and_number() -> None:
    def version(number: int, accepted: str) -> ModelVersion:
        condition = SimpleNamespace(type="Accepted", status=accepted)
        return SimpleNamespace(  # type: ignore[return-value]
            spec=SimpleNamespace(number=number), status=SimpleNamespace(conditions=[condition])
        )

    versions = [version(1, "False"), version(2, "True"), version(3, "False")]
    world: Any = SimpleNamespace(versions_of=lambda kind, name: versions if kind == "FoundationModel" else [])
    assert facts.rejected(world, "home-fm", 1) is versions[2]
    assert facts.rejected(world, "home-fm", 0) is versions[0]
    assert facts.rejected(world, "home-fm", 3) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KUBECONFIG": "/somewhere", "HOME": "/nowhere"}, ["KUBECONFIG=/somewhere is ignored"]),
        ({"HOME": "/nowhere"}, []),
    ],
)
def test_an_ambient_kubeconfig_is_ignored_and_that_is_printed(
    environment: dict[str, str],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(target, "OUR_KUBECONFIG", Path("/nowhere/kubeconfig"))
    with pytest.raises(target.TargetError, match="run make cluster"):
        target.choose(environment)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(expected)
    assert all(line.startswith(start) for line, start in zip(printed, expected, strict=True))


def test_another_cluster_needs_images_that_it_can_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_binary", lambda name, environment: name)
    with pytest.raises(
        target.TargetError, match=r"CONTEXT=prod also needs OPERATOR_IMAGE, .*STORAGE_CLASS, PROMETHEUS"
    ):
        target.choose({"CONTEXT": "prod"})


def test_the_demos_namespaces_are_marked_as_its_own_and_enforce_pod_security() -> None:
    labels = install._namespace("x")["metadata"]["labels"]  # type: ignore[index]
    assert labels[target.OWN_LABEL] == "true"
    modes = ("enforce", "warn", "audit")
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in modes} == {"restricted"}


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_for_another_cluster_a_persons_own_kubectl_is_used_and_never_our_clusters_wrapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target.assets, "binaries", lambda: tmp_path / "built")
    wrapper = executable(tmp_path / ".cluster" / "bin" / "kubectl")
    found = target._binary("kubectl", {"PATH": str(wrapper.parent)})
    assert found == str(tmp_path / "built" / "kubectl")
    own = executable(tmp_path / "usr" / "bin" / "kubectl")
    assert target._binary("kubectl", {"PATH": f"{wrapper.parent}:{own.parent}"}) == str(own)
    assert target._binary("kubectl", {"PATH": str(own.parent), "KUBECTL": "/opt/kubectl"}) == "/opt/kubectl"


class FakeCluster:
    """Answers ``kubectl get`` from a table."""

    def __init__(self, crds: list[dict[str, Any]], namespaces: list[dict[str, Any]]) -> None:
        self.tables = {"crd": crds, "namespaces": namespaces}

    def run(self, *arguments: str) -> str:
        return json.dumps({"items": self.tables[arguments[1]]})


def crd(release: str, namespace: str) -> dict[str, Any]:
    annotations = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}
    return {"metadata": {"name": "expertmodels.recast.dev", "annotations": annotations}}


@pytest.mark.parametrize(
    ("crds", "namespaces", "complaint"),
    [
        ([], [], None),
        ([{"metadata": {"name": "others.example.com"}}], [{"metadata": {"name": "prod"}}], None),
        ([crd(target.RELEASE, target.SYSTEM_NAMESPACE)], [], None),
        ([crd("recast", "recast-system")], [], "already has expertmodels.recast.dev"),
        ([{"metadata": {"name": "expertmodels.recast.dev"}}], [], "already has expertmodels.recast.dev"),
        ([], [{"metadata": {"name": target.NAMESPACE}}], "namespace recast-demo exists"),
        ([], [{"metadata": {"name": target.NAMESPACE, "labels": {target.OWN_LABEL: "true"}}}], None),
    ],
)
def test_a_cluster_with_a_recast_of_others_is_refused(
    crds: list[dict[str, Any]], namespaces: list[dict[str, Any]], complaint: str | None
) -> None:
    cluster: Any = FakeCluster(crds, namespaces)
    if complaint is None:
        target.refuse_foreign(cluster)
    else:
        with pytest.raises(target.TargetError, match=complaint):
            target.refuse_foreign(cluster)


def test_nothing_is_true_of_an_empty_world() -> None:
    world = World()
    assert not facts.accepted(world, "FoundationModel", "home-fm", 1)
    assert not facts.serving(world, "reels")
    assert not facts.settled(world, "reels", 1)
    assert not facts.retired(world, "home-fm", 1)
    assert facts.current(world, "home-fm") is None
    assert facts.failed_image(None, "x") is None
    assert not facts.observed(None)


def test_the_job_that_writes_the_data_runs_as_the_user_of_its_image() -> None:
    chosen = scenario.SYNTHETIC
    assert chosen.stream_job is not None
    pod = yaml.safe_load(chosen.file(chosen.stream_job).read_text())["spec"]["template"]["spec"]
    wanted = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), RUN_AS_USER)
    assert wanted.items() <= pod["securityContext"].items()


def test_the_questions_come_from_the_same_stream_as_the_jobs_data() -> None:
    chosen = scenario.SYNTHETIC
    assert chosen.stream_job is not None
    job = yaml.safe_load(chosen.file(chosen.stream_job).read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][3:-2] == ["synthetic", *chosen.data_arguments]


def test_questions_are_sorted_by_surface_and_the_newest_are_kept() -> None:
    lines = [json.dumps({"surface": "ads", "user": user, "candidates": [1]}) for user in range(300)]
    found = questions.by_surface([*lines, '{"surface": "feed", "user": 1, "candidates": [2]}'])
    assert found["feed"] == [{"user": 1, "candidates": [2]}]
    assert [entry["user"] for entry in found["ads"]] == list(range(100, 300))


@pytest.mark.parametrize(
    ("phase", "inside", "taken"), [("Released", True, True), ("Bound", True, False), ("Released", False, False)]
)
def test_only_released_folders_of_our_own_are_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, inside: bool, taken: bool
) -> None:
    monkeypatch.setattr(volumes, "FOLDERS", tmp_path if inside else tmp_path / "elsewhere")
    folder = tmp_path / "3"
    folder.mkdir()
    volume = {"spec": {"hostPath": {"path": str(folder)}}, "status": {"phase": phase}}
    assert volumes.abandoned(volume) == (folder if taken else None)
