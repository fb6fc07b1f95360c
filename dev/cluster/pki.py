"""Certificates of one cluster: a random CA of its own, and a client certificate for every part, by openssl."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A certificate's subject: the user (CN) and group (O) that the apiserver sees."""

    user: str
    group: str = ""


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


class Authority:
    """A certificate authority in a folder that only its owner can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        if not self.certificate.exists():
            subject = "/CN=recast-dev-cluster"
            curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365"]
            _openssl("req", "-x509", *curve, "-subj", subject, "-keyout", str(self._key), "-out", str(self.certificate))

    def issue(self, name: str, identity: Identity, hosts: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """The certificate and key files called ``name``, made when missing; with ``hosts`` good for serving too."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if certificate.exists():
            return certificate, key
        request = self.folder / f"{name}.csr"
        subject = (f"/O={identity.group}" if identity.group else "") + f"/CN={identity.user}"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        _openssl("req", *curve, "-subj", subject, "-keyout", str(key), "-out", str(request))
        extension = self.folder / f"{name}.ext"
        names = ",".join(f"{'IP' if host[0].isdigit() else 'DNS'}:{host}" for host in hosts)
        usage = "extendedKeyUsage=clientAuth,serverAuth\n" if hosts else "extendedKeyUsage=clientAuth\n"
        extension.write_text(usage + (f"subjectAltName={names}\n" if names else ""))
        signer = ["-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial", "-days", "365"]
        _openssl("x509", "-req", "-in", str(request), *signer, "-extfile", str(extension), "-out", str(certificate))
        request.unlink()
        extension.unlink()
        return certificate, key

    def kubeconfig(self, path: Path, server: str, name: str, identity: Identity) -> Path:
        """A kubeconfig for ``identity`` with everything embedded, readable by its owner only."""
        certificate, key = self.issue(name, identity)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "recast",
                    "cluster": {"server": server, "certificate-authority-data": _base64(self.certificate)},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)},
                }
            ],
            "contexts": [{"name": "recast-dev", "context": {"cluster": "recast", "user": name}}],
            "current-context": "recast-dev",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=1))
        return path

    def service_account_key(self) -> Path:
        """The RSA key that signs service account tokens."""
        key = self.folder / "service-account.key"
        if not key.exists():
            _openssl("genrsa", "-out", str(key), "2048")
        return key
