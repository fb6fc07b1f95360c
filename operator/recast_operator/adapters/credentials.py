"""Where the apiserver is and how to speak to it: the pod's service account, or a kubeconfig named on the command line.

An ambient ``KUBECONFIG`` or ``~/.kube/config`` is never looked at. Tokens that live in files are read again, since the
kubelet rotates them. Used by :mod:`recast_operator.adapters.kube`, and by ``entry`` to log kopf in with the same.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Credentials:
    """One apiserver and one identity. PEM texts, or None where absent."""

    server: str
    """``https://host:port``."""
    ca: str | None = None
    insecure: bool = False
    """Do not verify the apiserver's certificate; only where the kubeconfig says so."""
    certificate: str | None = None
    key: str | None = None
    token_file: Path | None = None
    token_text: str | None = None

    def token(self) -> str | None:
        """The bearer token as it is now."""
        if self.token_file is not None:
            return self.token_file.read_text().strip()
        return self.token_text

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings; None for a plain-http server."""
        if not self.server.startswith("https:"):
            return None
        context = ssl.create_default_context(cadata=self.ca)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate and self.key:
            # OpenSSL loads a client certificate from a file only: a private one that is gone at once.
            descriptor, name = tempfile.mkstemp(prefix="recast-", suffix=".pem")
            try:
                with os.fdopen(descriptor, "w") as stream:
                    stream.write(self.certificate + "\n" + self.key + "\n")
                context.load_cert_chain(name)
            finally:
                Path(name).unlink()
        return context


def in_cluster(folder: Path = SERVICE_ACCOUNT) -> Credentials:
    """The identity that Kubernetes gave this pod. Raises :class:`ValueError` outside a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (folder / "token").exists():
        raise ValueError(
            f"not inside a pod: KUBERNETES_SERVICE_HOST or {folder}/token is missing; name a cluster with --kubeconfig"
        )
    bracketed = f"[{host}]" if ":" in host else host
    return Credentials(
        server=f"https://{bracketed}:{port}", ca=(folder / "ca.crt").read_text(), token_file=folder / "token"
    )


def _pem(entry: dict[str, Any], name: str, folder: Path) -> str | None:
    if data := entry.get(f"{name}-data"):
        return base64.b64decode(data).decode()
    if path := entry.get(name):
        return Path(folder, str(path)).read_text()
    return None


def from_kubeconfig(path: Path, context: str | None = None) -> Credentials:
    """The cluster and user of a kubeconfig's context (default: its ``current-context``).

    Raises :class:`ValueError` where it names what is not there, or logs in by a plugin.
    """
    config = yaml.safe_load(path.read_text()) or {}
    wanted = context or config.get("current-context")

    def find(section: str, name: str | None, key: str) -> dict[str, Any]:
        for item in config.get(section) or []:
            if item.get("name") == name:
                found: dict[str, Any] = item.get(key) or {}
                return found
        raise ValueError(f"{path}: no entry {name!r} in {section}; correct the file or name another context")

    chosen = find("contexts", wanted, "context")
    cluster = find("clusters", chosen.get("cluster"), "cluster")
    user = find("users", chosen.get("user"), "user")
    if "exec" in user or "auth-provider" in user:
        raise ValueError(
            f"{path}: user {chosen.get('user')!r} logs in by a plugin, which the operator does not run; "
            "give it a token or a client certificate, or run it inside the cluster"
        )
    folder = path.parent
    return Credentials(
        server=str(cluster["server"]).rstrip("/"),
        ca=_pem(cluster, "certificate-authority", folder),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        certificate=_pem(user, "client-certificate", folder),
        key=_pem(user, "client-key", folder),
        token_file=folder / user["tokenFile"] if user.get("tokenFile") else None,
        token_text=user.get("token"),
    )
