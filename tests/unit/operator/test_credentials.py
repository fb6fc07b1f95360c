"""Who the operator is to the apiserver: a pod's service account, or a kubeconfig that was named."""

from __future__ import annotations

import base64
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from recast_operator.adapters.credentials import Credentials, from_kubeconfig, in_cluster
from recast_operator.adapters.errors import Transient
from recast_operator.adapters.kube import HttpRequester, Request


class Pair:
    """A self-signed certificate for 127.0.0.1 and its key."""

    def __init__(self, folder: Path, name: str, days: int = 1) -> None:
        self.certificate, self.key = folder / f"{name}.crt", folder / f"{name}.key"
        request = str(folder / f"{name}.csr")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        sign = ["-req", "-signkey", str(self.key), "-days", str(days), "-copy_extensions", "copy"]
        for command in (
            ["req", *curve, *subject, "-keyout", str(self.key), "-out", request],
            ["x509", *sign, "-in", request, "-out", str(self.certificate)],
        ):
            subprocess.run(["openssl", *command], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), "operator")


def kubeconfig(folder: Path, user: dict[str, Any], **cluster: Any) -> Path:
    config = {
        "current-context": "here",
        "contexts": [
            {"name": "elsewhere", "context": {"cluster": "other", "user": "other"}},
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [
            {"name": "other", "cluster": {"server": "https://other"}},
            {"name": "c", "cluster": {"server": "https://example:6443/", **cluster}},
        ],
        "users": [{"name": "other", "user": {"token": "others"}}, {"name": "u", "user": user}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_kubeconfig_is_read_with_files_beside_it(tmp_path: Path, pair: Pair) -> None:
    (tmp_path / "ca.crt").write_text(pair.certificate.read_text() + "\n")
    (tmp_path / "client.crt").write_text(pair.certificate.read_text())
    (tmp_path / "client.key").write_text(pair.key.read_text())
    (tmp_path / "token").write_text("secret\n")
    user = {"tokenFile": "token", "client-certificate": "client.crt", "client-key": "client.key"}
    found = from_kubeconfig(kubeconfig(tmp_path, user, **{"certificate-authority": "ca.crt"}))
    assert (found.server, found.insecure, found.token()) == ("https://example:6443", False, "secret")
    assert found.ca == pair.certificate.read_text() + "\n"
    assert (found.certificate, found.key) == (pair.certificate.read_text(), pair.key.read_text())


def test_a_kubeconfig_is_read_with_inline_data_which_wins_over_files(tmp_path: Path, pair: Pair) -> None:
    certificate, key = pair.certificate.read_text(), pair.key.read_text()
    wrapped = encoded(certificate)
    user = {
        "token": "secret",
        "client-certificate-data": f"{wrapped[:10]}\n{wrapped[10:]}\n",
        "client-certificate": "not-there",
        "client-key-data": encoded(key),
    }
    found = from_kubeconfig(kubeconfig(tmp_path, user, **{"certificate-authority-data": wrapped}))
    assert (found.ca, found.certificate, found.key) == (certificate, certificate, key)
    assert found.token() == "secret"


def test_another_context_than_the_current_one_can_be_named(tmp_path: Path) -> None:
    found = from_kubeconfig(kubeconfig(tmp_path, {}), "elsewhere")
    assert (found.server, found.token()) == ("https://other", "others")


def test_without_verification_only_where_the_kubeconfig_says_so(tmp_path: Path) -> None:
    assert not from_kubeconfig(kubeconfig(tmp_path, {})).insecure
    assert from_kubeconfig(kubeconfig(tmp_path, {}, **{"insecure-skip-tls-verify": True})).insecure


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({"exec": {"command": "aws"}}, {}, r"user 'u' has exec: the operator runs no plugin"),
        ({"auth-provider": {"name": "gcp"}}, {}, r"user 'u' has auth-provider: the operator runs no plugin"),
        ({"username": "admin", "password": "x"}, {}, r"user 'u' has username: Kubernetes has no passwords"),
        ({"as": "somebody"}, {}, r"user 'u' has as: the operator impersonates nobody"),
        ({}, {"proxy-url": "http://p"}, r"cluster 'c' has proxy-url"),
        ({}, {"tls-server-name": "k8s"}, r"cluster 'c' has tls-server-name"),
        ({}, {"server": ""}, r"cluster 'c' has no server"),
        ({"client-key-data": encoded("KEY")}, {}, r"user 'u' has one of client-certificate and client-key; give both"),
        ({"client-certificate": "gone", "client-key": "gone"}, {}, r"client-certificate cannot be read: .*gone"),
        ({}, {"certificate-authority-data": encoded("no PEM")}, r"certificate authority .* is no certificate in PEM"),
        (
            {"client-certificate-data": encoded("no PEM"), "client-key-data": encoded("no PEM")},
            {},
            r"client certificate and key .* are no pair in PEM",
        ),
        ({}, {"certificate-authority-data": "not base64!"}, r"certificate-authority cannot be read"),
        ({}, {"certificate-authority": "gone.crt"}, r"certificate-authority cannot be read: .*gone\.crt"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_what_is_wrong(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        from_kubeconfig(kubeconfig(tmp_path, user, **cluster))
    assert str(tmp_path / "kubeconfig") in str(caught.value) or "https://example:6443" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no contexts"),
        ("- a list", "it has no contexts"),
        ("a: [", "is no YAML"),
        ("current-context: ''", "no current-context; name one with --context"),
        ("current-context: x", "no entry 'x' in contexts"),
        ("{current-context: x, contexts: [{name: x}]}", "no entry None in clusters"),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], clusters: [{name: c}]}",
            "no entry 'u' in users",
        ),
    ],
)
def test_a_file_that_is_no_kubeconfig_says_what_it_lacks(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(ValueError, match=words):
        from_kubeconfig(tmp_path / "kubeconfig")


def test_a_kubeconfig_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read: .*No such file"):
        from_kubeconfig(tmp_path / "kubeconfig")
    (tmp_path / "kubeconfig").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        from_kubeconfig(tmp_path / "kubeconfig")


def test_inside_a_pod_the_service_account_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text(pair.certificate.read_text())
    for host, server in (("fd00::1", "https://[fd00::1]:443"), ("10.0.0.1", "https://10.0.0.1:443")):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        found = in_cluster(tmp_path)
        assert (found.server, found.token(), found.insecure) == (server, "t", False)
        assert found.ca == pair.certificate.read_text()
    (tmp_path / "ca.crt").write_text("")
    with pytest.raises(ValueError, match=r"certificate authority of https://10\.0\.0\.1:443 is no certificate"):
        in_cluster(tmp_path)


@pytest.mark.parametrize("missing", ["token", "ca.crt", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"])
def test_outside_a_pod_what_is_missing_and_the_way_out_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, {})))  # ambient: never looked at
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.setenv(name, "1")
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("x")
    monkeypatch.delenv(missing, raising=False)
    (tmp_path / missing).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=rf"not inside a pod: .*{missing}.* missing; name a cluster with --kubeconfig"):
        in_cluster(tmp_path)


def test_a_token_that_was_rotated_is_read_again_and_one_in_the_kubeconfig_stays(tmp_path: Path) -> None:
    token = tmp_path / "token"
    credentials = Credentials("https://x", token_file=token, token_text="never used beside a file")
    for text in ("one\n", "two"):
        token.write_text(text)
        assert credentials.token() == text.strip()
    assert Credentials("https://x", token_text="fixed").token() == "fixed"
    assert Credentials("https://x").token() is None


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_token_that_is_gone_or_empty_is_tried_again_and_no_request_goes_out_without(
    tmp_path: Path, content: str | None
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
    with pytest.raises(Transient, match=r"the apiserver's token cannot be read: .*token"):
        Credentials("https://x", token_file=token).token()


def test_a_certificate_is_verified_unless_the_kubeconfig_says_otherwise() -> None:
    strict, loose = Credentials("https://x").ssl_context(), Credentials("https://x", insecure=True).ssl_context()
    assert strict is not None
    assert loose is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_NONE, False)
    assert Credentials("http://x").ssl_context() is None


async def answer(request: web.Request) -> web.Response:
    peer = request.transport.get_extra_info("peercert") if request.transport else None
    name = dict(part[0] for part in peer["subject"])["commonName"] if peer else "nobody"
    return web.json_response({"you": name})


async def asked(server: Pair, credentials: dict[str, Any], clients: Pair | None = None) -> Any:
    """What a server with that certificate answers; with ``clients`` it asks for that client certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.certificate, server.key)
    if clients is not None:
        context.load_verify_locations(clients.certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    running = TestServer(application, scheme="https")
    await running.start_server(ssl=context)
    requester = HttpRequester(Credentials(f"https://127.0.0.1:{running.port}", **credentials))
    try:
        return await requester.send(Request("GET", "/x"))
    finally:
        await requester.close()
        await running.close()


async def test_the_apiservers_certificate_must_be_the_clusters_and_current(tmp_path: Path) -> None:
    good = Pair(tmp_path, "good")
    assert await asked(good, {"ca": good.certificate.read_text()}) == {"you": "nobody"}
    assert await asked(good, {"insecure": True}) == {"you": "nobody"}
    with pytest.raises(Transient, match="self-signed certificate"):
        await asked(good, {})
    old = Pair(tmp_path, "old", days=-1)
    with pytest.raises(Transient, match="certificate has expired"):
        await asked(old, {"ca": old.certificate.read_text()})


async def test_a_client_certificate_is_shown_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    server, client = Pair(tmp_path, "server"), Pair(tmp_path, "operator")
    identity = {"certificate": client.certificate.read_text(), "key": client.key.read_text()}
    assert await asked(server, {"ca": server.certificate.read_text(), **identity}, client) == {"you": "operator"}
    assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(ValueError, match="no pair in PEM"):
        Credentials("https://x", certificate="no PEM", key="no PEM").ssl_context()
    assert list((tmp_path / "scratch").iterdir()) == []
