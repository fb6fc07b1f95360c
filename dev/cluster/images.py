"""The project's images: built from their Dockerfiles by Debian's buildah, loaded into the node without a registry.

An image is named by the hash of its Dockerfile, of what it copies, and of the image below it, so that an unchanged one
is neither built nor loaded again. Finished images wait in one OCI layout in the cache, where the big PyTorch layer lies
once; the node is sent only the layers that it does not hold yet.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import assets
from dev.cluster.layout import load
from dev.cluster.oci import REGISTRY, ImageLayout, Storage
from dev.cluster.paths import REPO, STATE, cache, content_hash, lock, user_cache
from dev.cluster.progress import say, step

NEEDED_GIB = 12
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_IN_BUILD = "/run/host-certificates.crt"


@dataclass(frozen=True)
class Image:
    """One Dockerfile and what it stands on."""

    name: str
    folder: str
    sources: tuple[str, ...] = ()
    """Files and folders of the repository that it copies."""
    extras: tuple[str, ...] = ()
    """Extras of pyproject.toml whose dependencies it installs."""
    base: str = ""
    builder: str = ""
    target: str = ""
    kept: bool = False
    """Whether it stays in the layout although no pod runs it: it takes too long to build again."""
    loaded: bool = True
    """Whether pods run it; the others are only built upon."""
    usually: float = 10


IMAGES = {
    image.name: image
    for image in (
        Image("debian", "", loaded=False, usually=50),
        Image("base", "images/base", base="debian", target="runtime", kept=True, loaded=False, usually=6),
        Image("builder", "images/base", base="debian", target="builder", kept=True, loaded=False, usually=16),
        Image(
            "torch",
            "images/torch",
            sources=("images/torch/trim.py",),
            extras=("trainer", "server"),
            base="base",
            builder="builder",
            kept=True,
            loaded=False,
            usually=150,
        ),
        Image(
            "operator",
            "images/operator",
            sources=("api/recast_api", "operator"),
            extras=("operator",),
            base="base",
            builder="builder",
            usually=25,
        ),
        Image(
            "trainer",
            "images/trainer",
            sources=("api/recast_api", "model/recast_model", "trainer/recast_trainer"),
            base="torch",
        ),
        Image(
            "server",
            "images/server",
            sources=("api/recast_api", "model/recast_model", "server/recast_server"),
            base="torch",
        ),
    )
}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def _dependencies(extras: tuple[str, ...]) -> str:
    """The dependencies as text: other changes of pyproject.toml must not rebuild gigabytes."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    wanted = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return json.dumps(wanted) + (REPO / "constraints.txt").read_text()


def tag(image: Image) -> str:
    """The image's content hash."""
    parts: list[str | Path] = [image.name, image.target]
    if image.name == "debian":
        return content_hash("debian", _debian_release(), "minbase")
    files = [file for source in (image.folder + "/Dockerfile", *image.sources) for file in _files(REPO / source)]
    for file in files:
        parts += [str(file.relative_to(REPO)), file]
    parts += [tag(IMAGES[name]) for name in (image.base, image.builder) if name]
    if image.extras:
        parts.append(_dependencies(image.extras))
    return content_hash(*parts)


def _debian_release() -> str:
    return "bookworm"


def local(image: Image) -> str:
    """The image's name in the build storage."""
    return f"localhost/recast-{image.name}:{tag(image)}"


def reference(image: Image) -> str:
    """The image's name in the node, as pods use it."""
    return f"{REGISTRY}/{image.name}:{tag(image)}"


def _uv_cache() -> Path:
    """Where uv keeps unpacked wheels: `.venv` was made from the same ones, so a build only copies them."""
    base = os.environ.get("UV_CACHE_DIR")
    return Path(base) if base else user_cache() / "uv"


# Buildah starts itself again with an empty environment for every RUN, so LD_LIBRARY_PATH cannot lead it to the unpacked
# libraries. In a mount namespace of its own they lie over the system's library folder instead.
_WITH_LIBRARIES = 'mount -t overlay overlay -o "lowerdir=$1:$2" "$2" && shift 2 && exec "$@"'


class Builder:
    """Buildah with a storage and a layout of its own in ``home``, which is the cache by default."""

    def __init__(self, home: Path | None = None) -> None:
        self.home = home or cache()
        self.root = self.home / "buildah"
        self.layout = ImageLayout(self.home / "oci")
        self.storage = Storage(self.root / "storage")
        self.root.mkdir(parents=True, exist_ok=True)
        policy = self.root / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        registries = self.root / "registries.conf"
        registries.write_text("unqualified-search-registries = []\n")
        self._environment = assets.environment() | {
            "BUILDAH_ISOLATION": "chroot",
            "STORAGE_DRIVER": "overlay",
            "CONTAINERS_REGISTRIES_CONF": str(registries),
            "CONTAINERS_CONF": "/dev/null",
            "TMPDIR": str(self.root),
        }
        self._global = ["--root", str(self.root / "storage"), "--runroot", str(self.root / "run")]
        self._policy = ["--signature-policy", str(policy)]

    def _buildah(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        libraries = "usr/lib/x86_64-linux-gnu"
        isolate = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            _WITH_LIBRARIES,
            "sh",
            str(assets.debian() / libraries),
            f"/{libraries}",
        ]
        command = [*isolate, "buildah", *self._global, *arguments]
        return subprocess.run(
            command,
            cwd=self.home,
            env=self._environment,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
        )

    def _run(self, verb: str, *arguments: str) -> str:
        policy = self._policy if verb in ("build", "from", "commit", "pull") else []
        out = self._buildah(verb, *policy, *arguments)
        if out.returncode:
            words = " ".join([verb, *arguments])[:300]
            raise assets.SetupError(f"buildah {words}\n{out.stdout[-3000:]}\n{out.stderr[-4000:]}")
        return out.stdout

    def has(self, name: str) -> bool:
        """Whether the storage holds an image."""
        return self.storage.image(name) is not None

    def debootstrap(self, image: Image) -> None:
        """A minimal Debian from its packages, for machines that reach no image registry."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        archive = folder / "rootfs.tar"
        scripts = assets.debian() / "usr/share/debootstrap"
        try:
            command = ["debootstrap", "--variant=minbase", _debian_release(), str(folder / "root")]
            environment = self._environment | {"DEBOOTSTRAP_DIR": str(scripts)}
            out = subprocess.run(command, env=environment, capture_output=True, text=True)
            if out.returncode:
                raise assets.SetupError(f"debootstrap: {out.stdout[-2000:]}{out.stderr[-2000:]}")
            subprocess.run(
                ["tar", "-C", str(folder / "root"), "--exclude=./var/cache/apt/*", "-cf", str(archive), "."], check=True
            )
            container = self._run("from", "scratch").strip()
            self._run("add", container, str(archive), "/")
            self._run("config", "--cmd", "/bin/sh", container)
            self._run("commit", "--rm", "--disable-compression", container, local(image))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def build(self, image: Image, dockerfile: Path, context: Path, name: str, arguments: dict[str, str]) -> None:
        """Run one Dockerfile. The host's certificates, proxies and pip settings serve the build and stay out of it."""
        command = ["--layers=false", "--pull-never", "--format", "oci", "-f", str(dockerfile), "-t", name]
        if image.target:
            command += ["--target", image.target]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        if _CERTIFICATES.exists():
            command += ["-v", f"{_CERTIFICATES}:{_IN_BUILD}:ro"]
            command += [word for key in ("SSL_CERT_FILE", "PIP_CERT") for word in ("--build-arg", f"{key}={_IN_BUILD}")]
        packages = _uv_cache()
        packages.mkdir(parents=True, exist_ok=True)
        command += ["-v", f"{packages}:/root/.cache/uv", "--build-arg", "UV_NO_CACHE=0"]
        if Path("/etc/pip.conf").exists():
            command += ["-v", "/etc/pip.conf:/etc/pip.conf:ro"]
        for key in sorted(os.environ):
            if key.lower().endswith("_proxy") or key in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
                command += ["--build-arg", f"{key}={os.environ[key]}"]
        self._run("build", *command, str(context))

    def take_back(self, ref: str, name: str) -> None:
        """Bring an image from the layout into the storage."""
        # Buildah also names what it pulls after the folder, and not every path makes a name: so it gets a plain one.
        pulled = self._run("pull", "--quiet", f"oci:{self.layout.root.name}:{ref}").split()[-1]
        self._run("tag", pulled, name)

    def empty(self) -> None:
        """Empty the build storage; the finished images stay in the layout."""
        self._buildah("rmi", "--all", "--force")


def _stage(image: Image, context: Path) -> None:
    """Copy exactly what a Dockerfile may copy."""
    for source in ("pyproject.toml", "constraints.txt", *image.sources):
        origin, target = REPO / source, context / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, target, ignore=shutil.ignore_patterns("__pycache__", "tests"), dirs_exist_ok=True)
        elif origin.exists():
            shutil.copy2(origin, target)


def ensure(builder: Builder, image: Image, *, final: bool) -> None:
    """Have an image in the layout (``final``) or in the storage to build upon, with everything below it."""
    ref, name = reference(image), local(image)
    if (final and builder.layout.has(ref)) or (not final and builder.has(name)):
        return
    if not builder.has(name) and builder.layout.has(ref):
        with step(f"taking image {image.name} back to build upon it", image.usually / 4):
            builder.take_back(ref, name)
    elif not builder.has(name):
        for below in (image.base, image.builder):
            if below:
                ensure(builder, IMAGES[below], final=False)
        with step(f"building image {image.name}", image.usually):
            if image.name == "debian":
                builder.debootstrap(image)
            else:
                with tempfile.TemporaryDirectory(dir=builder.root) as folder:
                    _stage(image, Path(folder))
                    arguments = {"BASE": local(IMAGES[image.base])}
                    if image.builder:
                        arguments["BUILDER"] = local(IMAGES[image.builder])
                    builder.build(image, REPO / image.folder / "Dockerfile", Path(folder), name, arguments)
    if (final or image.kept) and not builder.layout.has(ref):
        with step(f"storing image {image.name}", image.usually / 4):
            builder.layout.add(builder.storage, name, ref)


def build(names: list[str]) -> dict[str, str]:
    """Build what is missing; the references by name."""
    free = shutil.disk_usage(cache()).free / 2**30
    missing = [name for name in names if not Builder().layout.has(reference(IMAGES[name]))]
    if missing and free < NEEDED_GIB:
        raise assets.SetupError(f"{cache()} has {free:.1f} GiB free, images need {NEEDED_GIB} GiB: free some space")
    builder = Builder()
    with lock("images"):
        for name in names:
            ensure(builder, IMAGES[name], final=True)
    return {name: reference(IMAGES[name]) for name in names}


def build_extra(name: str, dockerfile: Path, base: str) -> str:
    """Build an image that is not the project's own (an example) upon one that is."""
    builder, below = Builder(), IMAGES[base]
    key = content_hash(tag(below), *_files(dockerfile.parent))
    ref = f"{REGISTRY}/{name}:{key}"
    with lock("images"):
        if not builder.layout.has(ref):
            ensure(builder, below, final=False)
            with step(f"building image {name}", 10):
                extra = Image(name, str(dockerfile.parent))
                builder.build(
                    extra, dockerfile, dockerfile.parent, f"localhost/recast-{name}:{key}", {"BASE": local(below)}
                )
                builder.layout.add(builder.storage, f"localhost/recast-{name}:{key}", ref)
    return ref


def load_into_node(refs: list[str], state: Path = STATE) -> None:
    """Send images to the node, unless it has them."""
    ctr = str(load(state).state / "bin" / "ctr")
    present = subprocess.run([ctr, "images", "ls", "-q"], capture_output=True, text=True, check=True).stdout.split()
    missing = [ref for ref in refs if ref not in present]
    if missing:
        with step("loading images into the node", 60), lock("images"):
            Builder().layout.send(missing, ctr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dev.cluster images``."""
    default = [image.name for image in IMAGES.values() if image.loaded]
    parser.add_argument("names", nargs="*", default=default, help=f"which ({', '.join(default)})")
    parser.add_argument("--no-load", action="store_true", help="build only: the node need not run")
    parser.add_argument("--prune", action="store_true", help="only empty the build storage; finished images stay")
    parser.add_argument("--json", action="store_true", help="print references as JSON")
    parser.add_argument("--file", type=Path, help="another Dockerfile to build, with --name and --base")
    parser.add_argument("--name", help="its image's name")
    parser.add_argument("--base", default="server", help="the project's image that it stands on")


def main(arguments: argparse.Namespace) -> int:
    """Build and load; the references go to stdout and ``.cluster/images.json``."""
    if arguments.prune:
        with lock("images"):
            Builder().empty()
        return 0
    if arguments.file:
        refs = {arguments.name: build_extra(arguments.name, arguments.file.resolve(), arguments.base)}
    else:
        refs = build(arguments.names)
    if not arguments.no_load:
        load_into_node(list(refs.values()))
    record = STATE / "images.json"
    if record.parent.exists():
        known = json.loads(record.read_text()) if record.exists() else {}
        record.write_text(json.dumps(known | refs, indent=1, sort_keys=True))
    if arguments.json:
        print(json.dumps(refs))
    else:
        for name, ref in refs.items():
            say(f"  {name}: {ref}")
    return 0
