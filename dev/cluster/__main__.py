"""``python -m dev.cluster``: a real single-node Kubernetes for machines without one."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from dev.cluster import assets, images, lifecycle
from dev.cluster.layout import load
from dev.cluster.paths import STATE


def main() -> int:
    """Run one verb; problems become one message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m dev.cluster", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("tools", help="build or find the binaries (Kubernetes, etcd, CoreDNS, Helm, containerd, …)")
    verbs.add_parser("up", help="start the cluster, or find it running; prints its kubeconfig")
    verbs.add_parser("down", help="stop the cluster and remove everything it made")
    verbs.add_parser("status", help="say whether it runs")
    verbs.add_parser("logs", help="the end of every component's log, and a tarball of all")
    run = verbs.add_parser("exec", help="run a command with this cluster's kubeconfig and tools")
    run.add_argument("command", nargs=argparse.REMAINDER)
    images.add_arguments(verbs.add_parser("images", help="build the project's images and load them into the node"))
    arguments = parser.parse_args()
    try:
        match arguments.verb:
            case "tools":
                print(assets.binaries(), assets.debian(), sep="\n")
            case "up":
                print(lifecycle.up().kubeconfig)
            case "down":
                lifecycle.down()
            case "status":
                layout = load(STATE)
                up = bool(lifecycle.supervisor(layout)) and lifecycle.ready(layout)
                print(f"cluster {layout.id}: {'up, ' + layout.server if up else 'down'}")
                return 0 if up else 1
            case "logs":
                layout = load(STATE)
                print(lifecycle.tails(layout, 20))
                print(lifecycle.bundle_logs(layout))
            case "images":
                return int(images.main(arguments))
            case "exec":
                layout = load(STATE)
                path = f"{layout.state / 'bin'}:{os.environ.get('PATH', '')}"
                environment = os.environ | {"KUBECONFIG": str(layout.kubeconfig), "PATH": path}
                return subprocess.run(arguments.command, env=environment).returncode
    except (assets.SetupError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
