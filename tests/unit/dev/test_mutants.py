"""The mutation tool on a tiny project, and the committed list against the code as it is."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from dev.mutants import catalogue
from dev.mutants.__main__ import choose, good, main
from dev.mutants.nearest import nearest
from dev.mutants.run import Result, Verdict

ROOT = Path(__file__).resolve().parents[3]
CODE = "def double(n):\n    return n * 2\n\n\ndef at_most(n, limit):\n    return n if n < limit else limit\n"
TEST = "from shop.sums import double\n\n\ndef test_twice():\n    assert double(2) == 4\n    assert double(3) == 6\n"
KILLED = ("n * 2", "n + 2", "adds")
SURVIVES = ("n < limit", "n > limit", "the wrong one")
HANGS = ("    return n * 2", "    while True: pass", "never ends")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def listed(root: Path, *entries: tuple[str, ...], name: str = "sums.toml", **more: str) -> None:
    """Each entry: old, new, why."""
    text = "".join(
        f"[[mutant]]\nfile = 'lib/shop/sums.py'\nold = '''{old}'''\nnew = '''{new}'''\nwhy = '''{why}'''\n"
        + "".join(f"{key} = {value}\n" for key, value in more.items())
        for old, new, why in entries
    )
    write(root / "dev/mutants" / name, text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write(tmp_path / "pyproject.toml", "[tool.hatch.build]\ndev-mode-dirs = ['lib']\n")
    write(tmp_path / "lib/shop/__init__.py", "")
    write(tmp_path / "lib/shop/sums.py", CODE)
    write(tmp_path / "tests/unit/shop/test_sums.py", TEST)
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=tmp_path, check=True)
    return tmp_path


def test_every_committed_mutant_still_fits_the_code_and_says_why() -> None:
    mutants = catalogue.load(ROOT)
    assert mutants
    assert list(catalogue.problems(ROOT, mutants)) == []
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["dev-mode-dirs"]
    for file in {mutant.file for mutant in mutants if not mutant.tests}:
        assert nearest(ROOT, packages, file), file


def test_each_mutant_is_killed_survives_hangs_or_is_equivalent_and_the_tree_stays_as_it_is(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dev.mutants.run.GRACE_SECONDS", 3.0)
    listed(project, KILLED, SURVIVES, HANGS)
    listed(project, ("limit else limit", "limit else n", "-"), name="same.toml", equivalent="'nobody calls it'")
    listed(project, ("return n * 2", "return n", "-"), name="wrong.toml", equivalent="'so it is said'")
    assert main(["--json", str(project / "figures.json")], project) == 1
    said = capsys.readouterr().out
    assert "unmutated: 1 files of tests passed" in said
    assert "killed lib/shop/sums.py:2 by tests/unit/shop/test_sums.py::test_twice" in said
    assert "killed lib/shop/sums.py:2 by no end after" in said
    assert "survived: lib/shop/sums.py:6 (sums.toml #2): the wrong one\n  - n < limit\n  + n > limit" in said
    assert "not equivalent: lib/shop/sums.py:2 (wrong.toml #1) was killed by tests/unit/shop/test_sums.py" in said
    assert "   2/3    lib/shop/sums.py" in said
    assert "killed 2 of 3 (66.7%), 2 equivalent" in said
    figures = json.loads((project / "figures.json").read_text())
    assert (figures["killed"], figures["total"]) == (2, 3)
    assert figures["files"] == {"lib/shop/sums.py": {"killed": 2, "total": 3}}
    assert [survivor["at"] for survivor in figures["survivors"]] == ["lib/shop/sums.py:6"]
    assert (project / "lib/shop/sums.py").read_text() == CODE


def verdict(*, killed: bool, equivalent: str = "") -> Verdict:
    mutant = catalogue.Mutant("x.toml #1", "x.py", "a", "b", "why", equivalent=equivalent)
    return Verdict(mutant, 1, Result("failed" if killed else "passed", 1.0, "by"))


@pytest.mark.parametrize(
    ("killed", "survived", "more", "enough"),
    [
        (9, 1, [], True),
        (8, 1, [], False),
        (1, 0, [verdict(killed=False, equivalent="yes")] * 9, True),
        (9, 0, [verdict(killed=True, equivalent="no")], False),
    ],
)
def test_nine_of_ten_must_be_killed_and_none_that_is_named_equivalent(
    killed: int, survived: int, more: list[Verdict], enough: bool
) -> None:
    assert good([verdict(killed=True)] * killed + [verdict(killed=False)] * survived + more) is enough


def test_tests_that_fail_without_a_mutant_can_kill_none(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project / "tests/unit/shop/test_sums.py", TEST.replace("== 6", "== 7"))
    listed(project, KILLED)
    assert main([], project) == 1
    captured = capsys.readouterr()
    assert "tests/unit/shop/test_sums.py::test_twice fails without a mutant" in captured.err
    assert "killed" not in captured.out


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (("n / 2", "n", "gone"), "has 'n / 2' 0 times"),
        (("limit", "n", "often"), "has 'limit' 3 times"),
        (("n * 2", "n * 2", "same"), "changes nothing"),
        (("n * 2", "n + 2", " "), "does not say why"),
        (("n * 2", "n *", "broken"), "would not compile: invalid syntax at line 2"),
    ],
)
def test_an_entry_that_the_code_has_left_is_named_before_anything_runs(
    project: Path, capsys: pytest.CaptureFixture[str], entry: tuple[str, str, str], problem: str
) -> None:
    listed(project, KILLED, entry)
    assert main([], project) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("sums.toml #2: ")
    assert problem in captured.err
    assert captured.out == ""


def test_a_list_names_files_and_tests_that_exist_and_nothing_twice(project: Path) -> None:
    listed(project, KILLED, tests="['tests/unit/shop/test_gone.py']")
    listed(project, KILLED, name="twin.toml")
    (project / "lib/shop/gone.py").unlink(missing_ok=True)
    write(
        project / "dev/mutants/z.toml",
        "[[mutant]]\nfile = 'lib/shop/gone.py'\nold = 'a'\nnew = 'b'\nwhy = 'c'\n",
    )
    assert list(catalogue.problems(project, catalogue.load(project))) == [
        "sums.toml #1: there is no tests/unit/shop/test_gone.py",
        "twin.toml #1: the same as sums.toml #1",
        "z.toml #1: there is no lib/shop/gone.py",
    ]


@pytest.mark.parametrize("line", ["whyy = 'typing error'", "tests = 'not a list'"])
def test_a_field_that_is_none_is_an_error(project: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed(project, KILLED, **dict([line.split(" = ")]))
    assert main([], project) == 1
    assert "sums.toml #1: needs file, new, old, why; wrong or unknown" in capsys.readouterr().err


def test_only_and_since_choose_by_file(project: Path) -> None:
    listed(project, KILLED)
    assert [mutant.why for mutant in choose(project, "lib/*/sums.py")] == ["adds"]
    with pytest.raises(ValueError, match="no mutant is of such a file"):
        choose(project, "lib/other/*")
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    subprocess.run(["git", "add", "."], cwd=project, check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "Begin"], cwd=project, check=True)
    with pytest.raises(ValueError, match="no mutant"):
        choose(project, since="HEAD")
    write(project / "lib/shop/sums.py", CODE + "\n")
    assert [mutant.why for mutant in choose(project, since="HEAD")] == ["adds"]


def test_tests_that_import_a_module_come_first_then_their_neighbours(project: Path) -> None:
    tests = project / "tests/unit"
    write(tests / "shop/test_a.py", "import shop\n")
    write(tests / "shop/helper.py", "import shop.prices\n")
    write(tests / "other/test_far.py", "import json\n")
    near, neighbour = "tests/unit/shop/test_sums.py", "tests/unit/shop/test_a.py"
    assert nearest(project, ["lib"], "lib/shop/sums.py") == (near, neighbour)
    assert nearest(project, ["lib"], "lib/shop/nobody_imports.py") == (neighbour, near)  # by its package
    assert nearest(project, ["lib"], "lib/shop/prices.py") == (neighbour, near)  # by a helper's folder
    write(tests / "other/test_from.py", "from shop import sums\n")
    assert nearest(project, ["lib"], "lib/shop/sums.py") == (near, neighbour)  # the folder with the module's name
    write(tests / "other/test_prices.py", "import shop.deep.prices\n")
    assert nearest(project, ["lib"], "lib/shop/deep/prices.py") == (
        neighbour,
        near,
    )  # even where it imports the package
    write(tests / "other/test_more.py", "from stock import rows\n")
    assert nearest(project, ["lib"], "lib/stock/rows.py") == (
        "tests/unit/other/test_more.py", "tests/unit/other/test_far.py", "tests/unit/other/test_from.py",
        "tests/unit/other/test_prices.py",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"no unit test imports lib/store/x\.py"):
        nearest(project, ["lib"], "lib/store/x.py")
