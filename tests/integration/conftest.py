"""A real kube-apiserver for the tests of this folder: one a session, one namespace a test."""

from __future__ import annotations

import itertools
import os
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from dev.cluster.controlplane import ControlPlane

_COUNTER = itertools.count(1)
CRDS = Path(__file__).resolve().parents[2] / "crds"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver without controllers."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="session")
def connect(control_plane: ControlPlane) -> Iterator[Callable[[str | None], httpx.Client]]:
    """Makes a client: of the administrator, or with the token that is given."""
    clients: list[httpx.Client] = []
    pki = control_plane.path / "pki"

    def client(token: str | None = None) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        if token is None:
            context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        made = httpx.Client(base_url=control_plane.server, verify=context, headers=headers, trust_env=False, timeout=30)
        clients.append(made)
        return made

    yield client
    for made in clients:
        made.close()


@pytest.fixture(scope="session")
def admin(connect: Callable[[str | None], httpx.Client]) -> httpx.Client:
    """The administrator, in plain HTTP."""
    return connect(None)


@pytest.fixture
def namespace(admin: httpx.Client) -> str:
    """A namespace of this test's own. It is not deleted: without controllers that would never end."""
    name = f"test-{os.getpid()}-{next(_COUNTER)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    admin.post("/api/v1/namespaces", json=body).raise_for_status()
    return name


@pytest.fixture(scope="session")
def recast(admin: httpx.Client) -> httpx.Client:
    """The administrator of an apiserver that serves Recast's resources."""
    for path in sorted(CRDS.glob("*.yaml")):
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = body["metadata"]["name"]
        admin.patch(
            f"{DEFINITIONS}/{name}",
            params={"fieldManager": "test", "force": "true", "fieldValidation": "Strict"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            json=body,
        ).raise_for_status()
        url = f"/apis/recast.dev/v1alpha1/{body['spec']['names']['plural']}"
        deadline = time.monotonic() + 30
        while admin.get(url).status_code != 200:
            assert time.monotonic() < deadline, f"{name} is not served: {admin.get(f'{DEFINITIONS}/{name}').text}"
            time.sleep(0.05)
    return admin
