"""Binaries that no package registry ships ready-made: built from our own Go module, or unpacked from Debian packages.

Everything is named by the hash of what it is made from and appears in the cache in one rename, so that an interrupted
build leaves nothing that looks finished. Debian packages are unpacked, never installed: no service starts on the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from dev.cluster import golang
from dev.cluster.paths import cache, content_hash, lock
from dev.cluster.progress import step

MODULE = Path(__file__).parent / "hyperkube"
KUBERNETES = "1.36.3"
COMPONENTS = (
    "coredns",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
PROGRAMS = (".", "./pause", "helm.sh/helm/v4/cmd/helm")
_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES.split(".")
BUILD = (
    "-gcflags=all=-dwarf=false",  # the linker strips it anyway; not writing it saves 8 % of the time
    f"-ldflags=-s -w -X {_VERSION}.gitVersion=v{KUBERNETES} -X {_VERSION}.gitMajor={_MAJOR}"
    f" -X {_VERSION}.gitMinor={_MINOR} -X k8s.io/client-go/pkg/version.gitVersion=v{KUBERNETES}",
)
PACKAGES = (
    "buildah",
    "containerd",
    "containernetworking-plugins",
    "debootstrap",
    "iptables",
    "prometheus",
    "redis-server",
    "runc",
)


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def _go() -> str:
    try:
        return golang.go()
    except golang.NoToolchainError as error:
        raise SetupError(str(error)) from error


def _go_env() -> dict[str, str]:
    return os.environ | {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
    }


def _build(go: str, out: Path) -> None:
    """All programs in one build: Helm compiles on one core while the linker keeps the other with hyperkube."""
    command = [go, "build", *BUILD, "-o", f"{out}/", *PROGRAMS]
    built = subprocess.run(command, cwd=MODULE, env=_go_env(), stderr=subprocess.PIPE, text=True)
    if built.returncode:
        raise SetupError(f"`go build` failed:\n{built.stderr[-4000:]}")
    (out / "devcluster").rename(out / "hyperkube")


def binaries() -> Path:
    """A folder with every Kubernetes component, etcd, CoreDNS, kubectl, Helm and the pause program; built when missing.

    Raises :class:`SetupError` when there is no Go toolchain to be had and when the build fails.
    """
    sources = sorted(path for path in MODULE.rglob("*") if path.is_file())
    target = cache() / f"bin-{content_hash(*BUILD, *PROGRAMS, *sources)}"
    with lock("bin"):
        if target.exists():
            return target
        scratch = target.with_suffix(".incomplete")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        go = _go()
        with step("building Kubernetes, etcd, CoreDNS and Helm from source", 290):
            _build(go, scratch)
        for name in COMPONENTS:
            (scratch / name).symlink_to("hyperkube")
        scratch.rename(target)
        _forget("bin-*")
    return target


def _forget(pattern: str) -> None:
    """Delete what is older than the newest two: another checkout may still run the one before."""
    for old in sorted(cache().glob(pattern), key=lambda path: path.stat().st_mtime)[:-2]:
        shutil.rmtree(old)


def _closure() -> list[str]:
    """The packages, and those of their dependencies that this machine has not installed."""
    command = ["apt-get", "install", "--no-install-recommends", "--simulate", "-qq", *PACKAGES]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
        out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        raise SetupError(f"apt-get cannot resolve {', '.join(PACKAGES)}: {out.stderr.strip()}")
    names = [line.split()[1] for line in out.stdout.splitlines() if line.startswith("Inst ")]
    return sorted({*names, *PACKAGES})


def debian() -> Path:
    """A folder with :data:`PACKAGES` of Debian, unpacked."""
    release = Path("/etc/os-release").read_text()
    target = cache() / f"debs-{content_hash(release, *PACKAGES)}"
    with lock("debs"):
        if target.exists():
            return target
        scratch = target.with_suffix(".incomplete")
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "archives").mkdir(parents=True)
        with step("fetching Debian packages", 15):
            names = _closure()
            # Dropping privileges to _apt fails in a folder that only root can read; the files are checked either way.
            command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", *names]
            subprocess.run(command, cwd=scratch / "archives", check=True)
            for archive in sorted((scratch / "archives").glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", str(archive), str(scratch)], check=True)
            shutil.rmtree(scratch / "archives")
        scratch.rename(target)
        _forget("debs-*")
    return target


def environment() -> dict[str, str]:
    """The environment in which unpacked programs find each other and their libraries."""
    root = debian()
    path = [str(root / part) for part in ("usr/sbin", "usr/bin", "sbin", "bin")]
    libraries = [str(root / part) for part in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib")]
    return os.environ | {
        "PATH": ":".join([*path, os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")]),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "XTABLES_LIBDIR": str(root / "usr/lib/x86_64-linux-gnu/xtables"),
    }
