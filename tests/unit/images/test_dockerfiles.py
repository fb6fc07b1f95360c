"""What every image promises, read from its Dockerfile: base by argument, no root, nothing to build with at the end."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from recast_api import names

ROOT = Path(__file__).resolve().parents[3]
RUN_BY_PODS = ("operator", "trainer", "server")
BUILD_TOOLS = re.compile(r"\b(gcc|g\+\+|make|build-essential|python3-dev|python3-pip|pip install|uv pip)\b")


def _stages(name: str) -> list[str]:
    text = (ROOT / "images" / name / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    head, *stages = re.split(r"^FROM ", lines, flags=re.MULTILINE)
    assert re.search(r"^ARG BASE\b", head, flags=re.MULTILINE), "the base is a build argument"
    return stages


@pytest.mark.parametrize("name", ["base", "torch", *RUN_BY_PODS])
def test_no_stage_stands_on_anything_but_an_argument_or_another_stage(name: str) -> None:
    bases = [stage.split()[0] for stage in _stages(name)]
    assert set(bases) <= {"${BASE}", "${BUILDER}", "runtime"}


@pytest.mark.parametrize("name", RUN_BY_PODS)
def test_the_final_stage_installs_nothing_and_runs_as_a_number(name: str) -> None:
    final = _stages(name)[-1]
    assert not BUILD_TOOLS.search(final)
    assert re.search(rf"^USER {names.RUN_AS_USER}:{names.RUN_AS_USER}$", final, flags=re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["python", "-m", "recast_\w+(\.\w+)*"\]$', final, flags=re.MULTILINE)
    assert "org.opencontainers.image.title=" in final


def test_the_base_image_knows_the_user_by_number() -> None:
    base = "\n".join(_stages("base"))
    assert re.findall(r"recast:x:(\d+):", base) == [str(names.RUN_AS_USER)] * 2  # in /etc/passwd and /etc/group


@pytest.mark.parametrize("name", RUN_BY_PODS)
def test_an_image_starts_a_module_that_it_holds(name: str) -> None:
    final = _stages(name)[-1]
    module = re.search(r'"-m", "([\w.]+)"', final)
    assert module is not None
    package, *rest = module[1].split(".")
    copied = re.search(rf"^COPY (\S+/{package}) /opt/recast/{package}$", final, flags=re.MULTILINE)
    assert copied is not None
    assert (ROOT / copied[1] / f"{'/'.join(rest) or '__main__'}.py").is_file()


@pytest.mark.parametrize("name", RUN_BY_PODS)
def test_code_comes_after_dependencies_and_is_compiled_for_a_read_only_pod(name: str) -> None:
    final = _stages(name)[-1].splitlines()
    code = [index for index, line in enumerate(final) if re.match(r"COPY \S+ /opt/recast/", line)]
    dependencies = [index for index, line in enumerate(final) if line.startswith("COPY --from=build /opt/venv")]
    compiled = [index for index, line in enumerate(final) if "compileall" in line and "/opt/recast" in line]
    assert code
    assert all(index < code[0] for index in dependencies)
    assert compiled
    assert compiled[0] > code[-1]


def test_a_servers_memory_is_kept_for_its_next_request() -> None:
    final = _stages("server")[-1]
    for setting in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        found = re.search(rf"\b{setting}=(\d+)", final)
        assert found is not None
        assert int(found[1]) >= 2**30


def test_a_failed_installation_fails_the_build() -> None:
    for name in ("torch", "operator"):
        runs = [line for line in "\n".join(_stages(name)).splitlines() if "uv pip install" in line]
        assert runs
        # Only what stands in brackets may fail: there are files in some packages that no Python compiles.
        assert [line for line in runs if "||" in re.sub(r"\([^()]*\)", "", line)] == []
        assert not any("uv pip install" in group for line in runs for group in re.findall(r"\([^()]*\)", line))


def test_the_operators_image_asks_for_no_torch() -> None:
    assert "--extra operator" in "\n".join(_stages("operator"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [re.split(r"[<>=\[]", entry)[0] for entry in project["optional-dependencies"]["operator"]]
    assert not {"torch", "fbgemm-gpu-cpu", "fbgemm-gpu", "pyarrow"} & set(wanted)
    copied = re.findall(r"^COPY (\S+) /opt/recast", "\n".join(_stages("operator")), flags=re.MULTILINE)
    assert not [source for source in copied if "recast_model" in source or "recast_trainer" in source]


def test_a_context_of_the_whole_repository_holds_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.rstrip("/")
        for name in ("torch", *RUN_BY_PODS)
        for stage in _stages(name)
        for line in stage.splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    }
    mounted = {source for stage in _stages("torch") for source in re.findall(r" /src/(\S+)", stage)}
    assert copied | mounted == allowed
    assert "*" in lines
