"""A kube-apiserver and etcd alone, for tests of API semantics: no root, no node, ready in a few seconds.

There are no controllers: nothing collects garbage, no Deployment makes pods. A test plays their part.
"""

from __future__ import annotations

import signal
import ssl
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.cluster import assets
from dev.cluster.components import etcd_arguments
from dev.cluster.paths import direct_environment
from dev.cluster.pki import Authority, Identity
from dev.cluster.ports import held


class ControlPlane:
    """``with ControlPlane() as plane: plane.kubeconfig`` — administrator's certificate, loopback only, mTLS to etcd."""

    def __init__(self, *, controller_manager: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="recast-plane-")
        self.path = Path(self._folder.name)
        self._bin = assets.binaries()
        self._with_controllers = controller_manager
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._held = ExitStack()
        self._etcd_port, self._peer_port, self._api_port, self._controllers_port = (
            self._held.enter_context(held()) for _ in range(4)
        )
        self.server = f"https://127.0.0.1:{self._api_port}"
        self.authority = Authority(self.path / "pki")
        self.authority.service_account_key()
        self.authority.issue("etcd", Identity("etcd"), ("127.0.0.1", "localhost"))
        self.authority.issue("etcd-client", Identity("apiserver"))
        self.authority.issue("apiserver", Identity("kube-apiserver"), ("127.0.0.1", "kubernetes.default.svc"))
        admin = Identity("admin", "system:masters")
        self.kubeconfig = self.authority.kubeconfig(self.path / "kubeconfig", self.server, "admin", admin)

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.path / f"{name}.log").open("ab") as log:
            command = [str(self._bin / name), *arguments]
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=direct_environment()
            )

    def _start_etcd(self) -> None:
        url, peer = f"https://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._spawn("etcd", *etcd_arguments(self.path / "etcd", self.path / "pki", url, peer))

    def _start_apiserver(self) -> None:
        pki = self.path / "pki"
        self._spawn(
            "kube-apiserver",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._api_port}",
            "--advertise-address=127.0.0.1",
            f"--etcd-servers=https://127.0.0.1:{self._etcd_port}",
            f"--etcd-cafile={pki}/ca.crt",
            f"--etcd-certfile={pki}/etcd-client.crt",
            f"--etcd-keyfile={pki}/etcd-client.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            "--authorization-mode=RBAC",
            "--allow-privileged",
            "--service-cluster-ip-range=10.0.0.0/16",
            "--endpoint-reconciler-type=none",
            *([] if self._with_controllers else ["--disable-admission-plugins=ServiceAccount"]),
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/service-account.key",
            f"--service-account-signing-key-file={pki}/service-account.key",
        )

    def start(self) -> Self:
        """Start everything and wait for ``/readyz``. Raises :class:`SetupError` with the logs' end after 60 s."""
        if "etcd" not in self._processes:
            self._start_etcd()
        self._start_apiserver()
        self._wait_ready()
        if self._with_controllers and "kube-controller-manager" not in self._processes:
            identity = Identity("system:kube-controller-manager")
            file = self.path / "controllers.kubeconfig"
            self.authority.kubeconfig(file, self.server, "controllers", identity)
            self._spawn(
                "kube-controller-manager",
                f"--kubeconfig={file}",
                "--leader-elect=false",
                "--use-service-account-credentials",
                "--bind-address=127.0.0.1",
                f"--secure-port={self._controllers_port}",
                f"--service-account-private-key-file={self.path}/pki/service-account.key",
                f"--root-ca-file={self.path}/pki/ca.crt",
            )
        return self

    def _wait_ready(self) -> None:
        pki = self.path / "pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        end = time.monotonic() + 60
        while True:
            try:
                opener.open(f"{self.server}/readyz", timeout=2).close()
                return
            except OSError as error:
                ended = [name for name, process in self._processes.items() if process.poll() is not None]
                if ended or time.monotonic() > end:
                    raise assets.SetupError(f"no control plane ({error}); ended: {ended}\n{self.logs()}") from error
            time.sleep(0.05)

    def logs(self, lines: int = 20) -> str:
        """The end of every process's log."""
        files = sorted(self.path.glob("*.log"))
        return "\n".join(f"--- {file.name}\n" + "\n".join(file.read_text().splitlines()[-lines:]) for file in files)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """A running part, such as ``kube-apiserver``: for tests that hold it up."""
        return self._processes[name]

    def stop_apiserver(self) -> None:
        """An outage of the apiserver; :meth:`start` ends it."""
        self._end("kube-apiserver")

    def stop(self) -> None:
        """Stop in order — the apiserver before its etcd — and remove everything."""
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self._end(name)
        self._held.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
