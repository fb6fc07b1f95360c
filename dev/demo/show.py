"""The last screen: the state of the cluster, where things are, how to ask, how to take it down."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dev.demo.questions import Question
from dev.demo.scenario import Scenario
from dev.demo.target import REPOSITORY, Cluster


def state(cluster: Cluster, scenario: Scenario, questions: Mapping[str, list[Question]]) -> str:
    """The text."""
    kubeconfig = cluster.kubeconfig.relative_to(REPOSITORY)
    pilot = scenario.pilot
    question = json.dumps({**questions[pilot][0], "limit": 5})
    lines = ["", cluster.run("get", "fm,em,mv", "-n", cluster.namespace).rstrip(), "", "look around"]
    tools = "$PWD/.cluster/bin:$PWD/.venv/bin" if cluster.ours else "$PWD/.venv/bin"
    lines.append(f"  export KUBECONFIG=$PWD/{kubeconfig} PATH={tools}:$PATH")
    lines.append(f"  kubectl get fm,em,mv -n {cluster.namespace} -o wide")
    lines.append(f"  kubectl recast status -n {cluster.namespace}")
    lines.append(f"  kubectl recast why {pilot} -n {cluster.namespace}")
    lines += ["ask an expert"]
    if cluster.ours:
        for expert in scenario.experts:
            lines.append(f"  http://{service_address(cluster, expert.name)}/v1/rank   surface {expert.name}")
        lines.append(f"  curl -si http://{service_address(cluster, pilot)}/v1/rank -d '{question}'")
    else:
        lines.append(f"  kubectl port-forward -n {cluster.namespace} svc/em-{pilot} 8080:80 &")
        lines.append(f"  curl -si http://127.0.0.1:8080/v1/rank -d '{question}'")
    down = "make demo-down" if cluster.ours else f"make demo-down CONTEXT={cluster.context}"
    lines += [f"measurements   {cluster.prometheus_url} (inside the cluster)", f"take it down   {down}", ""]
    return "\n".join(lines)


def service_address(cluster: Cluster, expert: str) -> str:
    """The cluster address of an expert's Service; empty where it has none yet."""
    get = ("get", "service", f"em-{expert}", "-n", cluster.namespace, "--ignore-not-found")
    return cluster.run(*get, "-o", "jsonpath={.spec.clusterIP}").strip()
