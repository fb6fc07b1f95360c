"""The command line and configuration of every component. Pure: a layout and paths in, text out."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import pause
from dev.cluster.layout import API_PORT, NODE, PROMETHEUS_PORT, ClusterLayout

DNS_PORT = 1053


@dataclass(frozen=True)
class Component:
    """One process of the node."""

    name: str
    argv: list[str]
    ready: str = ""
    """``tcp:host:port``, ``unix:path``, ``http:url`` or ``https:url``: what answers when it is ready."""
    after: tuple[str, ...] = ()
    """Components that must be ready first."""


def etcd_arguments(data: Path, pki: Path, url: str, peer: str) -> list[str]:
    """One member of etcd, for clients with a certificate of this CA only; durable enough for a throw-away cluster."""
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={pki}/etcd.crt",
        f"--key-file={pki}/etcd.key",
        f"--trusted-ca-file={pki}/ca.crt",
        "--client-cert-auth",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def etcd(layout: ClusterLayout, bin_: Path) -> Component:
    """Etcd on the node's loopback."""
    arguments = etcd_arguments(layout.state / "etcd", layout.pki, "https://127.0.0.1:2379", "http://127.0.0.1:2380")
    return Component("etcd", [str(bin_ / "etcd"), *arguments], ready="tcp:127.0.0.1:2379")


def apiserver(layout: ClusterLayout, bin_: Path) -> Component:
    """The apiserver on the node's address."""
    pki = layout.pki
    argv = [
        str(bin_ / "kube-apiserver"),
        f"--bind-address={layout.node_ip}",
        f"--advertise-address={layout.node_ip}",
        f"--secure-port={API_PORT}",
        "--etcd-servers=https://127.0.0.1:2379",
        f"--etcd-cafile={pki}/ca.crt",
        f"--etcd-certfile={pki}/etcd-client.crt",
        f"--etcd-keyfile={pki}/etcd-client.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--anonymous-auth=false",
        "--allow-privileged",
        f"--service-cluster-ip-range={layout.services}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-account.key",
        f"--service-account-signing-key-file={pki}/service-account.key",
        "--profiling=false",
    ]
    return Component("kube-apiserver", argv, ready=f"https:{layout.server}/readyz", after=("etcd",))


def controller_manager(layout: ClusterLayout, bin_: Path) -> Component:
    """The built-in controllers, each with its own service account."""
    argv = [
        str(bin_ / "kube-controller-manager"),
        f"--kubeconfig={layout.pki}/kube-controller-manager.kubeconfig",
        "--bind-address=127.0.0.1",
        "--controllers=*,-nodeipam,-cloud-node-lifecycle",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={layout.pki}/service-account.key",
        f"--root-ca-file={layout.pki}/ca.crt",
        "--profiling=false",
    ]
    return Component("kube-controller-manager", argv, after=("kube-apiserver",))


def scheduler(layout: ClusterLayout, bin_: Path) -> Component:
    """The scheduler."""
    kubeconfig = f"{layout.pki}/kube-scheduler.kubeconfig"
    argv = [
        str(bin_ / "kube-scheduler"),
        f"--kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]
    return Component("kube-scheduler", [*argv, "--profiling=false"], after=("kube-apiserver",))


def containerd(layout: ClusterLayout, debs: Path) -> Component:
    """A containerd of this cluster alone; its sockets live on the node's private /run."""
    config = layout.state / "containerd.toml"
    config.write_text(
        f'''version = 2
root = "{layout.state}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause.REFERENCE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{debs}/usr/lib/cni"
    conf_dir = "{layout.state}/cni"
'''
    )
    cni = layout.state / "cni"
    cni.mkdir(exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": "recast0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": layout.pods}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    (cni / "10-recast.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "recast", "plugins": plugins}))
    argv = [str(debs / "usr/bin/containerd"), "--config", str(config)]
    return Component("containerd", argv, ready="unix:/run/containerd/containerd.sock")


def kubelet(layout: ClusterLayout, bin_: Path) -> Component:
    """The kubelet: no anonymous caller, every call authorised by the apiserver."""
    resolv = layout.state / "resolv.conf"
    resolv.write_text("")
    config = layout.state / "kubelet.json"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": layout.node_ip,
                "authentication": {
                    "anonymous": {"enabled": False},
                    "webhook": {"enabled": True},
                    "x509": {"clientCAFile": f"{layout.pki}/ca.crt"},
                },
                "authorization": {"mode": "Webhook"},
                "tlsCertFile": f"{layout.pki}/kubelet.crt",
                "tlsPrivateKeyFile": f"{layout.pki}/kubelet.key",
                "readOnlyPort": 0,
                "failCgroupV1": False,
                "cgroupDriver": "cgroupfs",
                "cgroupRoot": layout.cgroup,
                "enforceNodeAllocatable": [],
                "failSwapOn": False,
                "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
                "clusterDNS": [layout.dns_ip],
                "clusterDomain": "cluster.local",
                "resolvConf": str(resolv),
                "volumePluginDir": f"{layout.state}/volume-plugins",
                # Nothing can be pulled again here, so nothing may be collected.
                "imageGCHighThresholdPercent": 100,
                "imageGCLowThresholdPercent": 99,
                "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
                "shutdownGracePeriod": "0s",
            }
        )
    )
    argv = [
        str(bin_ / "kubelet"),
        f"--config={config}",
        f"--kubeconfig={layout.pki}/kubelet.kubeconfig",
        f"--hostname-override={NODE}",
        f"--node-ip={layout.node_ip}",
    ]
    return Component(
        "kubelet", argv, ready="http:http://127.0.0.1:10248/healthz", after=("kube-apiserver", "containerd")
    )


def proxy(layout: ClusterLayout, bin_: Path) -> Component:
    """Services by iptables, in the node's own network namespace."""
    argv = [
        str(bin_ / "kube-proxy"),
        f"--kubeconfig={layout.pki}/kube-proxy.kubeconfig",
        "--proxy-mode=iptables",
        f"--hostname-override={NODE}",
        f"--cluster-cidr={layout.pods}",
        "--conntrack-max-per-core=0",
        "--iptables-min-sync-period=100ms",
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1:10249",
    ]
    return Component("kube-proxy", argv, after=("kube-apiserver",))


def coredns(layout: ClusterLayout, bin_: Path) -> Component:
    """Cluster DNS as a process of the node. It forwards nowhere: pods have no way out either."""
    corefile = layout.state / "Corefile"
    corefile.write_text(
        f""".:{DNS_PORT} {{
  bind {layout.node_ip}
  errors
  cache 5
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {layout.pki}/coredns.kubeconfig recast-dev
    ttl 5
  }}
}}
"""
    )
    argv = [str(bin_ / "coredns"), "-conf", str(corefile)]
    return Component("coredns", argv, ready=f"tcp:{layout.node_ip}:{DNS_PORT}", after=("kube-apiserver",))


def discovery(layout: ClusterLayout) -> Component:
    """Lists the pods for Prometheus; see :mod:`dev.cluster.discovery`."""
    argv = [sys.executable, "-m", "dev.cluster.discovery", layout.server, str(layout.pki), str(_targets(layout))]
    return Component("discovery", argv, after=("kube-apiserver",))


def _targets(layout: ClusterLayout) -> Path:
    return layout.state / "targets.json"


def prometheus(layout: ClusterLayout, debs: Path) -> Component:
    """Prometheus, scraping annotated pods every 2 s; a pod cannot override the labels that say which it is."""
    pods = {"job_name": "pods", "honor_labels": False, "file_sd_configs": [{"files": [str(_targets(layout))]}]}
    config = {"global": {"scrape_interval": "2s", "scrape_timeout": "2s"}, "scrape_configs": [pods]}
    file = layout.state / "prometheus.json"
    file.write_text(json.dumps(config, indent=1))
    argv = [
        str(debs / "usr/bin/prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={layout.state}/prometheus",
        "--storage.tsdb.retention.time=6h",
        f"--web.listen-address={layout.node_ip}:{PROMETHEUS_PORT}",
        "--log.level=warn",
    ]
    ready = f"http:http://{layout.node_ip}:{PROMETHEUS_PORT}/-/ready"
    return Component("prometheus", argv, ready=ready)


def node(layout: ClusterLayout, bin_: Path, debs: Path) -> list[Component]:
    """Every process of the node, in the order in which they start; they stop in the reverse order."""
    return [
        etcd(layout, bin_),
        containerd(layout, debs),
        apiserver(layout, bin_),
        controller_manager(layout, bin_),
        scheduler(layout, bin_),
        proxy(layout, bin_),
        kubelet(layout, bin_),
        coredns(layout, bin_),
        discovery(layout),
        prometheus(layout, debs),
    ]
