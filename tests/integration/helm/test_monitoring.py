"""Dashboards and alert rules as the chart ships them: rendered by Helm, and played by Prometheus's own tool."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from chart import CHART, rendered

from dev.cluster import assets

ALERTS = CHART / "files" / "monitoring" / "alerts.yaml"


def test_each_alert_fires_for_what_it_is_about_and_for_nothing_else(tmp_path: Path) -> None:
    tests = Path(__file__).with_name("alerts_test.yaml")
    for file in (ALERTS, tests):
        shutil.copy(file, tmp_path)
    played = yaml.safe_load(tests.read_text(encoding="utf-8"))["tests"][-1]["alert_rule_test"]
    rules = [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    assert {test["alertname"] for test in played if test.get("exp_alerts")} == {rule["alert"] for rule in rules}
    promtool = assets.debian() / "usr" / "bin" / "promtool"
    answer = subprocess.run(
        [promtool, "test", "rules", tests.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_nothing_of_it_is_installed_unasked() -> None:
    kinds = {found["kind"] for found in rendered()}
    assert not {"ConfigMap", "PrometheusRule"} & kinds


@pytest.mark.parametrize("labels", [{"grafana_dashboard": "1"}, {}])
def test_dashboards_are_config_maps_with_the_labels_that_grafana_looks_for(labels: dict[str, str]) -> None:
    wanted = {"dashboards": {"enabled": True, "labels": labels}}
    maps = [found for found in rendered(monitoring=wanted) if found["kind"] == "ConfigMap"]
    assert len(maps) == 2
    for found in maps:
        assert labels.items() <= found["metadata"]["labels"].items()
        ((name, text),) = found["data"].items()
        assert json.loads(text) == json.loads(
            (CHART / "files" / "monitoring" / name.removeprefix("recast-")).read_text()
        )


def test_alert_rules_are_a_prometheus_rule_on_request() -> None:
    wanted = {"prometheusRule": {"enabled": True, "labels": {"release": "monitoring"}}}
    (rule,) = [found for found in rendered(monitoring=wanted) if found["kind"] == "PrometheusRule"]
    assert rule["metadata"]["labels"]["release"] == "monitoring"
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
