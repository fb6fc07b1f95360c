"""Lists the pods that Prometheus is to scrape: a targets file, rewritten whenever the annotated pods change.

Debian's Prometheus is built without Kubernetes discovery. This asks the apiserver once a second with a client
certificate that may only list pods. Identity labels are taken from the pod object, never from what a pod reports.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

LABELS = ("model", "revision", "kind", "surface", "lineage")


def targets(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prometheus target groups for the running pods that ask to be scraped. Pure."""
    groups = []
    for pod in pods:
        meta, status = pod["metadata"], pod.get("status", {})
        notes = meta.get("annotations", {})
        if notes.get("prometheus.io/scrape") != "true" or status.get("phase") != "Running" or not status.get("podIP"):
            continue
        labels = {"namespace": meta["namespace"], "pod": meta["name"], "job": "pods"}
        labels["__metrics_path__"] = notes.get("prometheus.io/path", "/metrics")
        for label in LABELS:
            if value := meta.get("labels", {}).get(f"recast.dev/{label}"):
                labels[label] = value
        groups.append({"targets": [f"{status['podIP']}:{notes.get('prometheus.io/port', '80')}"], "labels": labels})
    return sorted(groups, key=lambda group: str(group["targets"]))


def main() -> None:
    """Entry point: ``python -m dev.cluster.discovery SERVER PKI FILE``."""
    server, pki, file = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "prometheus.crt", pki / "prometheus.key")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    written = ""
    while True:
        try:
            with opener.open(f"{server}/api/v1/pods?limit=2000", timeout=5) as answer:
                text = json.dumps(targets(json.load(answer)["items"]), indent=1)
        except OSError as error:
            print(f"listing pods: {error}", file=sys.stderr, flush=True)
        else:
            if text != written:
                scratch = file.with_suffix(".new")
                scratch.write_text(text)
                os.replace(scratch, file)
                written = text
        time.sleep(1)


if __name__ == "__main__":
    main()
