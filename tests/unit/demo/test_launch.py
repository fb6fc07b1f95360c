"""Preparation runs side by side and says what failed; a tier that a machine cannot carry is left out by name."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from dev import launch, venv
from dev.launch import Preparation, PreparationError, Task

GOOD, BAD = ("platform",), ("no_such_module_at_all",)


def test_what_a_task_prints_stands_under_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    Preparation().run([Task("one", GOOD), Task("two", GOOD, needs=("one",))])
    lines = capfd.readouterr().out.splitlines()
    assert any(line.startswith("one     Linux") for line in lines)
    assert [line.split()[0] for line in lines if "ready after" in line] == ["one", "two"]


def test_a_task_whose_need_failed_does_not_start_and_independent_ones_finish(capfd: pytest.CaptureFixture[str]) -> None:
    preparation = Preparation()
    with pytest.raises(PreparationError, match="broken failed"):
        preparation.run([Task("broken", BAD), Task("after", GOOD, needs=("broken",)), Task("apart", GOOD)])
    lines = capfd.readouterr().out.splitlines()
    assert set(preparation.failures) == {"broken"}
    assert not any(line.startswith("after") for line in lines)
    assert any(line.startswith("apart") and "ready after" in line for line in lines)


class Machine:
    """Stands in for the machine: which preparations fail, whether the doctor objects, who the user is."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, doctor: int = 0, root: bool = True, broken: str = ""
    ) -> None:
        self.pytest: list[Sequence[str]] = []
        self.emptied = 0
        monkeypatch.setattr(launch, "_doctor", lambda: doctor)
        monkeypatch.setattr(launch.os, "geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr(Preparation, "_one", self._one(broken))
        monkeypatch.setattr(launch.subprocess, "run", self._run)

    def _one(self, broken: str) -> Any:
        def one(preparation: Preparation, task: Task, needs: object) -> bool:
            if task.name == broken:
                preparation.failures[task.name] = 1
            return task.name != broken

        return one

    def _run(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if "pytest" in command:
            self.pytest.append(command[3:])
        else:
            self.emptied += list(command[2:]) == ["dev.cluster", "images", "--prune"]
        return subprocess.CompletedProcess(command, 0)


ALL = [f"tests/{tier}" for tier in launch.TIERS]


def test_everything_runs_in_one_pytest_where_the_machine_can_carry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    assert launch.test({"CI": "true"}, []) == 0
    assert machine.pytest == [ALL]
    assert machine.emptied == 1


@pytest.mark.parametrize(
    ("trouble", "left"),
    [
        ({"root": False}, ALL[:2]),
        ({"doctor": 1}, ALL[:2]),
        ({"broken": "images"}, ALL[:2]),
        ({"broken": "tools"}, ALL[:1]),
    ],
    ids=["no-root", "doctor-objects", "no-images", "no-tools"],
)
def test_a_tier_that_cannot_run_is_named_at_the_end_of_a_persons_run_and_fails_ci(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: dict[str, Any], left: list[str]
) -> None:
    machine = Machine(monkeypatch, **trouble)
    assert launch.test({}, []) == 0
    assert machine.pytest == [left]
    missing = [tier for tier in launch.TIERS if f"tests/{tier}" not in left]
    told = capsys.readouterr().err.splitlines()
    assert sorted(line.split(":")[1].strip() for line in told) == sorted(f"tests/{tier}" for tier in missing)
    machine.pytest.clear()
    try:
        strict = launch.test({"CI": "true"}, [])
    except PreparationError:
        strict = 1
    assert strict == 1
    assert machine.pytest == []


@pytest.mark.parametrize("uv", ["/usr/bin/uv", None])
def test_the_environment_is_made_from_the_constraints_with_and_without_uv(uv: str | None) -> None:
    install = venv.commands(uv)[-1]
    assert install[install.index("-c") + 1] == "constraints.txt"
    assert install[-1] == f".[{venv.EXTRAS}]"
    assert (install[0] == uv) is (uv is not None)


def test_constraints_hold_names_and_versions_and_no_addresses() -> None:
    lines = (venv.REPOSITORY / "constraints.txt").read_text().splitlines()
    assert all("==" in line and "/" not in line and "@" not in line for line in lines if not line.startswith("#"))
