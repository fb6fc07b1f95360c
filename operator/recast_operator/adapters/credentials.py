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

from recast_operator.adapters.errors import Transient

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_BY_PLUGIN = "the operator runs no plugin; give it a token or a client certificate, or run it inside the cluster"
_NOT_DONE = {
    "exec": _BY_PLUGIN,
    "auth-provider": _BY_PLUGIN,
    "username": "Kubernetes has no passwords any more; give it a token or a client certificate",
    "as": "the operator impersonates nobody; give it an identity of its own",
    "proxy-url": "the operator speaks to the apiserver directly; name an address that it can reach",
    "tls-server-name": "the operator checks the certificate for the address in server; name one that it is for",
}
"""Fields of a kubeconfig's cluster or user that must not be passed over in silence, and what to do instead."""


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
        """The bearer token as it is now. Raises :class:`Transient` where its file cannot be read, or is empty."""
        if self.token_file is None:
            return self.token_text
        try:
            token = self.token_file.read_text().strip()
        except OSError as error:
            raise Transient(f"the apiserver's token cannot be read: {error}") from error
        if not token:
            raise Transient(f"the apiserver's token cannot be read: {self.token_file} is empty")
        return token

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings; None for a plain-http server. Raises :class:`ValueError` for what is no PEM."""
        if not self.server.startswith("https:"):
            return None
        try:
            # Python takes an empty text for none and would trust every public authority.
            context = ssl.create_default_context(cadata="empty" if self.ca == "" else self.ca)
        except ssl.SSLError as error:
            raise ValueError(f"the certificate authority of {self.server} is no certificate in PEM: {error}") from error
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
            except ssl.SSLError as error:
                raise ValueError(f"client certificate and key for {self.server} are no pair in PEM: {error}") from error
            finally:
                Path(name).unlink()
        return context


def in_cluster(folder: Path = SERVICE_ACCOUNT) -> Credentials:
    """The identity that Kubernetes gave this pod. Raises :class:`ValueError` outside a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    missing = [str(path) for path in (folder / "token", folder / "ca.crt") if not path.exists()]
    if not host or not port:
        missing.insert(0, "KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT")
    if missing:
        raise ValueError(f"not inside a pod: {' and '.join(missing)} missing; name a cluster with --kubeconfig")
    bracketed = f"[{host}]" if ":" in str(host) else host
    found = Credentials(
        server=f"https://{bracketed}:{port}", ca=(folder / "ca.crt").read_text(), token_file=folder / "token"
    )
    found.ssl_context()  # says now what is wrong with a certificate, and not at the first request
    return found


def from_kubeconfig(path: Path, context: str | None = None) -> Credentials:
    """The cluster and user of a kubeconfig's context (default: its ``current-context``).

    Raises :class:`ValueError` where it cannot be read, names what is not there, or needs what the operator does not do.
    """
    config = _read(path)
    wanted = context or config.get("current-context")
    if not wanted:
        raise ValueError(f"{path}: it has no current-context; name one with --context")
    chosen = _entry(path, config, "contexts", wanted)
    cluster = _entry(path, config, "clusters", chosen.get("cluster"))
    user = _entry(path, config, "users", chosen.get("user"))
    for section, entry, name in (("cluster", cluster, chosen["cluster"]), ("user", user, chosen["user"])):
        if refused := sorted(_NOT_DONE.keys() & {key for key, value in entry.items() if value}):
            raise ValueError(f"{path}: {section} {name!r} has {refused[0]}: {_NOT_DONE[refused[0]]}")
    if not cluster.get("server"):
        raise ValueError(f"{path}: cluster {chosen['cluster']!r} has no server")
    certificate, key = _pem(path, user, "client-certificate"), _pem(path, user, "client-key")
    if (certificate is None) != (key is None):
        raise ValueError(f"{path}: user {chosen['user']!r} has one of client-certificate and client-key; give both")
    found = Credentials(
        server=str(cluster["server"]).rstrip("/"),
        ca=_pem(path, cluster, "certificate-authority"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        certificate=certificate,
        key=key,
        token_file=path.parent / user["tokenFile"] if user.get("tokenFile") else None,
        token_text=user.get("token"),
    )
    found.ssl_context()
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"kubeconfig {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"kubeconfig {path} is no YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no kubeconfig: it has no contexts, clusters and users")
    return config


def _entry(path: Path, config: dict[str, Any], section: str, name: str | None) -> dict[str, Any]:
    """What the list ``section`` holds under ``name``; the key inside an item is the section's singular."""
    for item in config.get(section) or []:
        if item.get("name") == name:
            found: dict[str, Any] = item.get(section.removesuffix("s")) or {}
            return found
    raise ValueError(f"{path}: no entry {name!r} in {section}; correct the file or name another context")


def _pem(path: Path, entry: dict[str, Any], name: str) -> str | None:
    """A certificate or key: inline in base64, or in a file beside the kubeconfig."""
    try:
        if data := entry.get(f"{name}-data"):
            return base64.b64decode("".join(str(data).split()), validate=True).decode()
        if file := entry.get(name):
            return (path.parent / str(file)).read_text()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {name} cannot be read: {error}") from error
    return None
