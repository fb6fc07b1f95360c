"""The single-node Kubernetes of dev/cluster: safe to run on a laptop, the real thing for pods, and easy to remove."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dev.cluster import addons, lifecycle, pause
from dev.cluster.layout import NODE, PROMETHEUS_PORT, ClusterLayout
from dev.cluster.node import SYSCTLS
from recast_api import names

pytest.register_assert_rewrite("cluster_fixture")
from cluster_fixture import Cluster, eventually, listeners, tools_pod  # noqa: E402

pytest_plugins = ["cluster_fixture"]
pytestmark = pytest.mark.e2e


def status_of(url: str, cluster: Cluster, certificate: str = "") -> int:
    """The HTTP status of ``url``, asked with a client certificate of the cluster or with none."""
    pki = cluster.layout.pki
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    if certificate:
        context.load_cert_chain(pki / f"{certificate}.crt", pki / f"{certificate}.key")
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def query(cluster: Cluster, expression: str) -> list[dict[str, object]]:
    """What Prometheus knows now, asked from the host through its Service."""
    address = cluster.get("service", "prometheus", "-n", addons.MONITORING)["spec"]["clusterIP"]
    url = f"http://{address}:{PROMETHEUS_PORT}/api/v1/query?query={expression}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        return list(json.load(answer)["data"]["result"])


def test_every_listener_of_the_node_is_on_its_own_loopback_or_on_the_link_to_the_host(cluster: Cluster) -> None:
    layout = cluster.layout
    addresses = {line.split()[1].rsplit(":", 1)[0] for line in listeners(cluster.pid)}
    assert addresses <= {"127.0.0.1", "[::1]", layout.node_ip, layout.pods.replace(".0/24", ".1")}
    assert layout.node_ip in addresses


def test_the_host_has_no_listener_of_the_node(cluster: Cluster) -> None:
    ports = {line.rsplit(":", 1)[1] for line in listeners()}
    assert ports.isdisjoint({"2379", "6443", "10250", "10256", "10257", "10259"})


@pytest.mark.parametrize("port", [6443, 10250], ids=["apiserver", "kubelet"])
def test_a_caller_without_a_certificate_is_refused(cluster: Cluster, port: int) -> None:
    path = "api/v1/namespaces" if port == 6443 else "pods"
    assert status_of(f"https://{cluster.layout.node_ip}:{port}/{path}", cluster) == 401


def test_the_kubelet_asks_the_apiserver_what_a_caller_may_do(cluster: Cluster) -> None:
    url = f"https://{cluster.layout.node_ip}:10250/pods"
    assert status_of(url, cluster, "admin") == 200
    assert status_of(url, cluster, "prometheus") == 403


def test_prometheus_may_read_pods_and_nothing_else(cluster: Cluster) -> None:
    assert status_of(f"{cluster.layout.server}/api/v1/pods", cluster, "prometheus") == 200
    assert status_of(f"{cluster.layout.server}/api/v1/secrets", cluster, "prometheus") == 403


def test_keys_are_for_their_owner_only(cluster: Cluster) -> None:
    layout = cluster.layout
    assert layout.kubeconfig.stat().st_mode & 0o077 == 0
    assert layout.pki.stat().st_mode & 0o077 == 0


def test_the_marker_names_this_cluster(cluster: Cluster) -> None:
    marker = cluster.get("configmap", addons.MARKER, "-n", "kube-system")
    assert marker["data"]["id"] == (cluster.layout.state / "id").read_text().strip()


def test_a_pod_reaches_the_api_by_its_service_name_as_its_service_account(cluster: Cluster, namespace: str) -> None:
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    user = {"name": "me", "user": {"tokenFile": f"{account}/token"}}
    server = {"server": "https://kubernetes.default.svc", "certificate-authority": f"{account}/ca.crt"}
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": server}],
        "users": [user],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "here",
    }
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kubeconfig", "namespace": namespace},
            "data": {"config": json.dumps(kubeconfig)},
        }
    )
    log = cluster.run_pod(
        namespace,
        "whoami",
        *(
            "/tools/kubectl",
            "--kubeconfig=/conf/config",
            "auth",
            "whoami",
            "-o",
            "jsonpath={.status.userInfo.username}",
        ),
        volumes=[{"name": "conf", "configMap": {"name": "kubeconfig"}}],
        mounts=[{"name": "conf", "mountPath": "/conf"}],
    )
    assert log == f"system:serviceaccount:{namespace}:default"


def test_a_claim_is_bound_and_our_user_can_write_to_it(cluster: Cluster, namespace: str) -> None:
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )
    cluster.run_pod(
        namespace,
        "writer",
        *("/tools/helm", "create", "/data/written"),
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        mounts=[{"name": "data", "mountPath": "/data"}],
    )
    volume = cluster.get("persistentvolumeclaim", "data", "-n", namespace)["spec"]["volumeName"]
    folder = Path(cluster.get("persistentvolume", volume)["spec"]["hostPath"]["path"])
    assert (folder / "written" / "Chart.yaml").stat().st_uid == names.RUN_AS_USER


def test_prometheus_scrapes_annotated_pods_and_believes_the_pod_object_not_the_pod(
    cluster: Cluster, namespace: str
) -> None:
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "page", "namespace": namespace},
            "data": {"metrics": 'probe_requests_total{model="forged",namespace="forged"} 7\n'},
        },
        tools_pod(
            namespace,
            "exporter",
            *("/tools/kubectl", "proxy", "--address=0.0.0.0", "--port=8001", "--accept-hosts=.*"),
            *("--www=/page", "--www-prefix=/static/"),
            metadata={
                "labels": {"recast.dev/model": "reels", "recast.dev/revision": "v3"},
                "annotations": {
                    "prometheus.io/scrape": "true",
                    "prometheus.io/port": "8001",
                    "prometheus.io/path": "/static/metrics",
                },
            },
            volumes=[{"name": "page", "configMap": {"name": "page"}}],
            mounts=[{"name": "page", "mountPath": "/page"}],
        ),
    )
    (series,) = eventually(lambda: query(cluster, f'probe_requests_total{{namespace="{namespace}"}}'), "the sample")
    labels = series["metric"]
    assert isinstance(labels, dict)
    assert (labels["model"], labels["revision"], labels["pod"]) == ("reels", "v3", "exporter")
    assert labels["exported_model"] == "forged"


def test_up_on_a_running_cluster_finds_it_and_neither_stops_nor_starts_anything(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: ClusterLayout) -> None:
        pytest.fail("the running cluster was touched")

    monkeypatch.setattr(lifecycle, "_stop", refuse)
    monkeypatch.setattr(lifecycle, "_start", refuse)
    before = cluster.pid
    assert lifecycle.up(cluster.layout.state) == cluster.layout
    assert cluster.pid == before


@pytest.mark.disruptive
def test_a_component_that_dies_is_started_again(spare_cluster: Cluster) -> None:
    def scheduler() -> int | None:
        enter = ["nsenter", "-t", str(spare_cluster.pid), "-p", "-m", "pgrep", "-f", "bin-.*/kube-scheduler"]
        return int(out.split()[0]) if (out := subprocess.run(enter, capture_output=True, text=True).stdout) else None

    first = eventually(scheduler, "the scheduler")
    subprocess.run(["nsenter", "-t", str(spare_cluster.pid), "-p", "-m", "kill", "-9", str(first)], check=True)
    assert eventually(lambda: (pid := scheduler()) != first and pid, "another scheduler") != first


@pytest.mark.disruptive
def test_a_killed_cluster_comes_up_again_with_what_it_held(spare_cluster: Cluster) -> None:
    spare_cluster.kubectl("create", "configmap", "kept", "--from-literal=is=here")
    node = lifecycle.supervisor(spare_cluster.layout)
    assert node
    os.kill(node, signal.SIGKILL)
    eventually(lambda: not lifecycle.supervisor(spare_cluster.layout), "the supervisor to be gone", 10)
    lifecycle.up(spare_cluster.layout.state)
    spare_cluster.until_usable()
    assert spare_cluster.get("configmap", "kept")["data"] == {"is": "here"}
    assert spare_cluster.run_pod("default", "after", "/tools/helm", "version", "--short").startswith("v")


@pytest.mark.disruptive
def test_a_half_failed_start_is_no_obstacle(spare_state: Path) -> None:
    layout = lifecycle.load(spare_state)
    layout.pid_file.write_text(str(os.getpid()))  # of a program that is not the node
    subprocess.run(
        ["ip", "link", "add", layout.link, "type", "veth", "peer", "name", f"{layout.link[:11]}-x"], check=True
    )
    lifecycle.up(spare_state)
    assert lifecycle.ready(layout)


@pytest.mark.disruptive
def test_down_leaves_nothing_and_up_opened_nothing(spare_state: Path) -> None:
    before = listeners()
    layout = lifecycle.up(spare_state)
    opened = {line for line in listeners() - before if "127.0.0.1:" not in line}  # other tests may run beside this one
    spare = Cluster(layout)
    spare.until_usable()
    spare.apply(tools_pod("default", "sleeper", "/tools/kubectl", "proxy"))
    eventually(lambda: spare.get("pod", "sleeper")["status"]["phase"] == "Running", "the pod to run")
    assert spare.get("node", NODE)["status"]["addresses"][0]["address"] == layout.node_ip
    lifecycle.down(spare_state)
    assert opened == set()
    assert not spare_state.exists()
    assert layout.link not in os.listdir("/sys/class/net")
    hierarchies = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    assert not [path for path in hierarchies if (path / layout.cgroup.lstrip("/")).exists()]
    assert str(spare_state) not in Path("/proc/self/mountinfo").read_text()
    commands = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    assert not [command for command in commands if str(spare_state).encode() in command]


@pytest.mark.disruptive
def test_a_proxy_in_the_environment_does_not_come_between_the_parts(
    spare_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    spare = Cluster(lifecycle.up(spare_state))
    assert spare.run_pod("default", "behind", "/tools/helm", "version", "--short").startswith("v")


@pytest.mark.disruptive
def test_two_starts_at_once_make_one_cluster(spare_state: Path) -> None:
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lifecycle.up, [spare_state, spare_state])
    assert first == second
    assert lifecycle.ready(first)


@pytest.mark.disruptive
def test_a_start_that_was_cut_short_is_finished_by_the_next(spare_cluster: Cluster) -> None:
    layout = spare_cluster.layout
    (layout.state / "usable").unlink()  # as a start leaves it that was killed after the node was Ready
    subprocess.run([layout.state / "bin" / "ctr", "images", "rm", "--sync", pause.REFERENCE], check=True)
    lifecycle.up(layout.state)
    assert spare_cluster.run_pod("default", "after", "/tools/helm", "version", "--short").startswith("v")


@pytest.mark.disruptive
def test_the_settings_of_the_host_stay_as_they_are(spare_state: Path) -> None:
    file = Path("/proc/sys/kernel/keys/root_maxkeys")  # the one of them that does no harm when it is moved
    before = file.read_text()
    file.write_text("1000001")
    try:
        lifecycle.up(spare_state)
        after = file.read_text().strip()
    finally:
        file.write_text(before)
    assert "kernel/keys/root_maxkeys" in SYSCTLS
    assert after == "1000001"


@pytest.fixture
def neighbour() -> Iterator[str]:
    """A network namespace that is to the host what another machine of its network is; the host routes for it."""
    name, link = f"neighbour-{os.getpid()}", "recast-outside"

    def run(words: str) -> None:
        subprocess.run(words.split(), check=True)

    run(f"ip netns add {name}")
    try:
        run(f"ip link add {link} type veth peer name eth0 netns {name}")
        run(f"ip address add 203.0.113.129/30 dev {link}")
        run(f"ip link set {link} up")
        Path(f"/proc/sys/net/ipv4/conf/{link}/forwarding").write_text("1")
        run(f"ip -n {name} address add 203.0.113.130/30 dev eth0")
        run(f"ip -n {name} link set eth0 up")
        run(f"ip -n {name} route add default via 203.0.113.129")
        yield name
    finally:
        run(f"ip netns del {name}")


@pytest.mark.disruptive
@pytest.mark.parametrize("forwards_back", [False, True], ids=["one way", "both ways"])
def test_the_host_gets_in_but_nobody_behind_it(cluster: Cluster, neighbour: str, forwards_back: bool) -> None:
    layout = cluster.layout
    knock = f"import socket; socket.create_connection(('{layout.node_ip}', 6443), timeout=3)"
    back = Path(f"/proc/sys/net/ipv4/conf/{layout.link}/forwarding")
    before = back.read_text()
    back.write_text(str(int(forwards_back)))
    try:
        outside = subprocess.run(["ip", "netns", "exec", neighbour, sys.executable, "-c", knock], capture_output=True)
    finally:
        back.write_text(before)
    assert subprocess.run([sys.executable, "-c", knock]).returncode == 0
    assert outside.returncode != 0
