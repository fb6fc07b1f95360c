"""The scrape configurations of docs/quickstart.md give series the labels that a canary's analysis selects by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.discovery import targets

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "unit" / "children" / "golden"
BLOCKS = [
    yaml.safe_load(text)
    for text in re.findall(
        r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
]
(SCRAPE,) = [job for block in BLOCKS if "scrape_configs" in block for job in block["scrape_configs"]]
(MONITOR,) = [block for block in BLOCKS if block.get("kind") == "PodMonitor"]
Labels = dict[str, str]


def pod(name: str, **changes: Any) -> dict[str, Any]:
    """A running pod of a golden Deployment."""
    template = yaml.safe_load((GOLDEN / f"{name}_deployment.yaml").read_text())["spec"]["template"]
    meta = {**template["metadata"], "name": f"{name}-0", "namespace": "demo", **changes}
    return {"metadata": meta, "spec": template["spec"], "status": {"phase": "Running", "podIP": "10.1.2.3"}}


def discovered(found: dict[str, Any]) -> Labels:
    """What Prometheus's discovery says of a pod before any relabelling."""
    meta = found["metadata"]
    said = {"ip": found["status"]["podIP"], "name": meta["name"], "phase": found["status"]["phase"]}
    for kind in ("label", "annotation"):
        said |= {f"{kind}_{re.sub(r'[^a-zA-Z0-9_]', '_', key)}": value for key, value in meta[f"{kind}s"].items()}
    labels = {f"__meta_kubernetes_pod_{key}": value for key, value in said.items()}
    return {"__address__": "10.1.2.3:8080", "__meta_kubernetes_namespace": meta["namespace"], **labels}


def relabelled(labels: Labels, rules: list[dict[str, Any]]) -> Labels | None:
    """The labels after the rules; None where the target is dropped. As in Prometheus, expressions are anchored."""
    labels = dict(labels)
    for rule in rules:
        action, expression = rule.get("action", "replace"), re.compile(rule.get("regex", "(.*)"))
        joined = rule.get("separator", ";").join(labels.get(name, "") for name in rule.get("source_labels", ()))
        match action:
            case "keep":
                if not expression.fullmatch(joined):
                    return None
            case "replace":
                if found := expression.fullmatch(joined):
                    labels[rule["target_label"]] = found.expand(re.sub(r"\$", r"\\", rule.get("replacement", "$1")))
            case "labelmap":
                for name, value in list(labels.items()):
                    if found := expression.fullmatch(name):
                        labels[found[1]] = value
            case _:
                pytest.fail(f"unknown action {action}")
    return labels


def visible(labels: Labels) -> Labels:
    """The labels that a series has in the end."""
    return {name: value for name, value in labels.items() if not name.startswith("__")}


@pytest.mark.parametrize("name", ["expert", "foundation"])
def test_a_server_is_scraped_at_its_admin_port_with_the_labels_of_its_pod(name: str) -> None:
    found = pod(name)
    labels = relabelled(discovered(found), SCRAPE["relabel_configs"])
    assert labels is not None
    (group,) = targets([found])  # as dev/cluster does it
    path = group["labels"].pop("__metrics_path__")
    group["labels"].pop("job")
    assert (labels["__address__"], labels["__metrics_path__"]) == (group["targets"][0], path)
    assert visible(labels) == group["labels"]


@pytest.mark.parametrize(
    "found",
    [
        pod("expert", annotations={}),
        pod("expert", labels={}),
        pod("expert", labels={"recast.dev/kind": "expert-trainer"}),
        {**pod("expert"), "status": {"phase": "Pending", "podIP": "10.1.2.3"}},
    ],
    ids=["not annotated", "not of Recast", "a trainer", "not running"],
)
def test_other_pods_are_not_scraped(found: dict[str, Any]) -> None:
    assert relabelled(discovered(found), SCRAPE["relabel_configs"]) is None


@pytest.mark.parametrize("name", ["expert", "foundation"])
def test_the_pod_monitor_selects_the_servers_and_gives_them_the_same_labels(name: str) -> None:
    found = pod(name)
    (selected,) = MONITOR["spec"]["selector"]["matchExpressions"]
    assert found["metadata"]["labels"][selected["key"]] in selected["values"]
    (endpoint,) = MONITOR["spec"]["podMetricsEndpoints"]
    ports = [port["name"] for container in found["spec"]["containers"] for port in container["ports"]]
    assert endpoint["port"] in ports
    added_by_the_operator = {"namespace": "demo", "pod": f"{name}-0"}
    labels = relabelled(discovered(found) | added_by_the_operator, endpoint["relabelings"])
    plain = relabelled(discovered(found), SCRAPE["relabel_configs"])
    assert labels is not None
    assert plain is not None
    assert visible(labels) == visible(plain)
