"""``kubectl recast`` from its arguments to what is printed, on an apiserver that refuses, lies and goes away."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest_cli import CLAIM, TRAINING, condition
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError

from recast_cli import cluster as cluster_module
from recast_cli.cluster import Change, Cluster, ClusterError
from recast_cli.main import format_line, main, parser, screen
from recast_cli.timeline import Line
from recast_cli.world import Unreadable, World, parse

PLURALS = ("foundationmodels", "expertmodels", "modelversions")


def raw_foundation(name: str = "home-fm", **spec: Any) -> dict[str, Any]:
    base = {"storage": CLAIM, "data": {**CLAIM, "path": "x"}, "training": TRAINING, "serving": {"image": "i:1"}}
    return {"kind": "FoundationModel", "metadata": {"name": name, "generation": 1}, "spec": {**base, **spec}}


def raw_expert(name: str = "reels", foundation: str = "home-fm", **more: Any) -> dict[str, Any]:
    spec = {
        "foundationRef": {"name": foundation},
        "surface": name.replace("-", ""),
        "tasks": [{"name": "click"}],
        "training": TRAINING,
        "serving": {"image": "i:1"},
        **more.pop("spec", {}),
    }
    return {"kind": "ExpertModel", "metadata": {"name": name, "generation": 1}, "spec": spec, **more}


UNREADABLE = {"training": {}}
"""No image: of such an object no later release made sense either."""


class Stream:
    """The body of a watch: events, then its end or an error."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events

    def stream(self, **_: Any) -> Iterator[bytes]:
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield json.dumps(event).encode() + b"\n"

    def close(self) -> None:
        pass

    def release_conn(self) -> None:
        pass


class FakeApi:
    """Answers by plural: a list of objects, a script of listings, or an error."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.watches: dict[str, list[list[Any]]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.ended = threading.Event()

    def list_namespaced_custom_object(
        self, group: str, version: str, namespace: str, plural: str, **options: Any
    ) -> Any:
        """:return: object"""
        assert (group, version) == ("recast.dev", "v1alpha1")
        if options.get("watch"):
            return Stream(self._events(plural))
        self.calls.append((plural, options))
        answer = self.answers.get(plural, [])
        if isinstance(answer, Exception):
            raise answer
        if answer and isinstance(answer[0], list):  # a listing each time, the last one for ever
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        start = int(options["_continue"] or 0)
        end = start + options["limit"]
        more = {"continue": str(end)} if end < len(answer) else {}
        return {"items": answer[start:end], "metadata": {"resourceVersion": "7", **more}}

    def _events(self, plural: str) -> list[Any]:
        script = self.watches.get(plural, [])
        if script:
            return script.pop(0)
        self.ended.wait(60)
        return []


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    fake = FakeApi()
    monkeypatch.setattr(Cluster, "connect", lambda *arguments: Cluster(fake, arguments[-1] or "default"))  # type: ignore[arg-type]
    yield fake
    fake.ended.set()


def run(*arguments: str) -> int:
    """The exit code; anything but an exit or a return is a traceback, and fails the test."""
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_an_empty_namespace_says_so_and_how_to_look_elsewhere(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "-n", "shop") == 0
    assert capsys.readouterr().out == "nothing of Recast in namespace shop; try -n <namespace>\n"
    assert run("why", "reels") == 1
    assert capsys.readouterr().err == (
        'kubectl recast: ExpertModel "reels" not found in this namespace; known: there are none\n'
    )
    assert run("status", "home-fm") == 1
    assert 'FoundationModel "home-fm" not found in this namespace; known: there are none' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ApiException(401, "Unauthorized"), "does not accept the kubeconfig's credentials: log in again"),
        (
            ApiException(403, "Forbidden"),
            "you may not list expertmodels.recast.dev in namespace shop: ask for get, list and watch on recast.dev",
        ),
        (ApiException(404, "Not Found"), "does not know expertmodels.recast.dev: install helm/recast first"),
        (ApiException(500, "Internal"), "cannot list expertmodels.recast.dev in namespace shop: 500 Internal"),
        (ApiException(0, "bad handshake"), "the apiserver cannot be reached: bad handshake"),
        (
            MaxRetryError(None, "/apis", ConnectTimeoutError("timed out after 10 s")),  # type: ignore[arg-type]
            "the apiserver cannot be reached: timed out after 10 s",
        ),
        (ConnectionResetError("reset by peer"), "the apiserver cannot be reached: reset by peer"),
    ],
)
@pytest.mark.parametrize("verb", [("status",), ("why", "reels"), ("timeline",)])
def test_what_the_apiserver_refuses_is_one_line_that_says_what_to_do(
    api: FakeApi, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...], error: Exception, words: str
) -> None:
    api.answers["expertmodels"] = error
    assert run(*verb, "-n", "shop") == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("kubectl recast: ")
    assert captured.err.count("\n") == 1


def test_every_request_has_a_time_limit(api: FakeApi) -> None:
    run("status")
    assert [plural for plural, _ in api.calls] == list(PLURALS)
    assert all(options["_request_timeout"] == (10, 30) for _, options in api.calls)


def test_an_object_that_cannot_be_read_hides_no_other_and_says_why(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers = {
        "foundationmodels": [raw_foundation(), raw_foundation("new-fm", **UNREADABLE)],
        "expertmodels": [raw_expert(), raw_expert("ads", "new-fm"), raw_expert("feed", spec=UNREADABLE)],
    }
    why = "cannot be read by this version of kubectl recast: spec.training.image: Field required"
    assert run("status") == 0
    assert capsys.readouterr().out.splitlines() == [
        "home-fm   current -   not seen by the operator yet",
        "└── reels  (surface reels)   not seen by the operator yet",
        f"ExpertModel feed {why}",
        f"FoundationModel new-fm {why}",
        "└── ads  (surface ads)   not seen by the operator yet",
    ]
    assert run("status", "home-fm") == 0
    assert "new-fm" not in capsys.readouterr().out
    for arguments in (("why", "feed"), ("status", "new-fm")):
        assert run(*arguments) == 1
        assert why in capsys.readouterr().err
    assert run("why", "ads") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Next       unknown: FoundationModel new-fm {why}"


def test_a_thousand_experts_are_read_page_by_page_and_all_shown(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers = {
        "foundationmodels": [raw_foundation()],
        "expertmodels": [raw_expert(f"e{n:04d}") for n in range(1001)],
    }
    assert run("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[4:9] for line in lines[1:]] == [f"e{n:04d}" for n in range(1001)]
    pages = [options["_continue"] for plural, options in api.calls if plural == "expertmodels"]
    assert pages == [None, "500", "1000"]


LONG = "pods are [not] ready: " + "because " * 40 + "of /this/ [/end] :warning:"


def test_in_a_pipe_every_entry_is_one_whole_line_without_colours(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    status = {"conditions": [condition("Ready", "False", "NoPods", LONG), condition("Stale", "True", "Old", LONG)]}
    api.answers = {"foundationmodels": [raw_foundation()], "expertmodels": [raw_expert(status=status)]}
    for arguments in (("status",), ("why", "reels")):
        assert run(*arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert sum(LONG in line for line in lines) == 2, arguments
        assert not any("\x1b" in line for line in lines)


def test_a_terminal_wraps_a_tree_inside_its_branches_and_loses_no_word(
    api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    status = {"conditions": [condition("Ready", "False", "NoPods", LONG)]}
    api.answers = {"foundationmodels": [raw_foundation()], "expertmodels": [raw_expert(status=status)]}
    assert run("status") == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(len(line) for line in lines) <= 60
    words = " ".join(line.lstrip("│├└─ ") for line in lines).split()
    assert " ".join(LONG.split()) in " ".join(words)
    assert screen(terminal=True).width == 60


def test_no_message_can_move_the_cursor_or_break_a_line(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "died\x1b[2J\x9b1m\r\nin two\tlines\x7f"
    status = {"conditions": [condition("Ready", "False", "NoPods", evil)]}
    api.answers = {"foundationmodels": [raw_foundation()], "expertmodels": [raw_expert(status=status)]}
    for arguments in (("status",), ("why", "reels")):
        assert run(*arguments) == 0
        assert "died?[2J?1m  in two lines?" in capsys.readouterr().out


def watched(api: FakeApi, count: int) -> tuple[list[Change], list[Unreadable]]:
    """The first changes of a watch, and what could not be read by then."""
    stop, unreadable = threading.Event(), []
    changes: list[Change] = []
    for change in Cluster(api, "shop").watch(stop, unreadable.append):  # type: ignore[arg-type]
        changes.append(change)
        if len(changes) == count:
            stop.set()
            api.ended.set()
    return changes, unreadable


def said(changes: list[Change]) -> list[tuple[str, bool]]:
    return [(change.resource.metadata.name, change.deleted) for change in changes]


def event(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": {**item, "metadata": {"resourceVersion": "8", **item["metadata"]}}}


def test_a_watch_gives_what_there_is_then_every_change() -> None:
    api = FakeApi(expertmodels=[raw_expert("a")])
    api.watches["expertmodels"] = [
        [
            event("ADDED", raw_expert("b")),
            event("BOOKMARK", {"kind": "ExpertModel", "metadata": {}}),
            event("MODIFIED", raw_expert("a")),
            event("DELETED", raw_expert("b")),
        ]
    ]
    changes, unreadable = watched(api, 4)
    assert said(changes) == [("a", False), ("b", False), ("a", False), ("b", True)]
    assert unreadable == []


def test_what_went_while_the_watch_was_broken_is_told_by_the_next_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Event, "wait", waiting_less(threading.Event.wait))
    api = FakeApi(expertmodels=[[raw_expert("a"), raw_expert("b")], [raw_expert("b")]])
    api.watches["expertmodels"] = [[ConnectionResetError("gone")], [event("ADDED", raw_expert("c"))]]
    changes, _ = watched(api, 5)
    assert said(changes) == [("a", False), ("b", False), ("a", True), ("b", False), ("c", False)]


def test_a_watch_that_ends_at_once_is_not_listed_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    wait = threading.Event.wait

    def noted(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout == 1:
            pauses.append(timeout)
        return wait(event, 0.005 if timeout == 1 else timeout)

    monkeypatch.setattr(threading.Event, "wait", noted)
    api = FakeApi(expertmodels=[raw_expert("a")])
    api.watches["expertmodels"] = [[], [], []]
    changes, _ = watched(api, 4)
    assert said(changes) == [("a", False)] * 4
    assert len(pauses) >= 3


def test_a_timeline_that_ends_in_any_way_reads_no_more() -> None:
    api, stop = FakeApi(expertmodels=[raw_expert("a")]), threading.Event()
    changes = Cluster(api, "shop").watch(stop)  # type: ignore[arg-type]
    assert next(changes).resource.metadata.name == "a"
    assert not stop.is_set()
    changes.close()
    assert stop.is_set()
    api.ended.set()


def waiting_less(wait: Any) -> Any:
    """The pause of a second between two listings is one of a few milliseconds here."""
    return lambda self, timeout=None: wait(self, 0.005 if timeout == 1 else timeout)


def test_a_watch_outlives_an_apiserver_that_goes_away_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Event, "wait", waiting_less(threading.Event.wait))
    api = FakeApi(expertmodels=[raw_expert("a")])

    listings = iter([[], ConnectionRefusedError("away"), ConnectionRefusedError("away")])
    answer = api.list_namespaced_custom_object

    def restarting(group: str, version: str, namespace: str, plural: str, **options: Any) -> Any:
        """:return: object"""
        if plural == "expertmodels" and not options.get("watch"):
            first = next(listings, None)
            if isinstance(first, Exception):
                raise first
            if first is not None:
                return {"items": first, "metadata": {"resourceVersion": "1"}}
        return answer(group, version, namespace, plural, **options)

    api.watches["expertmodels"] = [[ApiException(410, "Gone")]]
    monkeypatch.setattr(api, "list_namespaced_custom_object", restarting)
    changes, _ = watched(api, 1)
    assert said(changes) == [("a", False)]


def test_an_object_that_a_watch_cannot_read_is_told_once_and_stops_nothing() -> None:
    unreadable, later = raw_expert("odd", spec=UNREADABLE), raw_expert("b")
    api = FakeApi(expertmodels=[unreadable])
    api.watches["expertmodels"] = [[event("MODIFIED", unreadable), event("DELETED", unreadable), event("ADDED", later)]]
    changes, found = watched(api, 1)
    assert said(changes) == [("b", False)]
    assert [(item.kind, item.name) for item in found] == [("ExpertModel", "odd")]


def test_the_timeline_prints_lines_until_it_is_interrupted(
    api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.answers["expertmodels"] = [raw_expert("reels"), raw_expert("odd", spec=UNREADABLE)]
    put = cluster_module.queue.Queue.put
    fetched = cluster_module.queue.Queue.get
    left = [2]

    def get(self: Any, *arguments: Any, **options: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        found = fetched(self, *arguments, **options)
        left[0] -= 1
        return found

    monkeypatch.setattr(cluster_module.queue.Queue, "get", get)
    assert run("timeline") == 130
    assert cluster_module.queue.Queue.put is put
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "reels      applied",
        "odd        ExpertModel odd cannot be read by this version of kubectl recast: "
        "spec.training.image: Field required",
    ]


def test_a_line_begins_with_the_time_since_the_view_began() -> None:
    assert format_line(Line("reels", "v1 serves"), 192.9) == "03:12 reels      v1 serves"


def kubeconfig(folder: Path, **more: Any) -> str:
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "plain", "context": {"cluster": "c", "user": "u"}},
            {"name": "shop", "context": {"cluster": "c", "user": "u", "namespace": "shop"}},
        ],
        **more,
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(found))
    return str(path)


@pytest.mark.parametrize(
    ("current", "context", "namespace", "expected"),
    [
        ("plain", None, None, "default"),
        ("shop", None, None, "shop"),
        ("shop", None, "other", "other"),
        ("plain", "shop", None, "shop"),
        ("shop", "plain", None, "default"),
        (None, "shop", None, "shop"),
    ],
)
def test_the_namespace_is_the_flags_else_the_contexts_else_default(
    tmp_path: Path, current: str | None, context: str | None, namespace: str | None, expected: str
) -> None:
    path = kubeconfig(tmp_path, **({"current-context": current} if current else {}))
    found = Cluster.connect(path, context, namespace)
    assert found.namespace == expected
    assert isinstance(found.api, client.CustomObjectsApi)
    settings = found.api.api_client.configuration
    assert (settings.host, settings.retries) == ("https://127.0.0.1:1", 0)  # a person waits


@pytest.mark.parametrize(
    ("text", "context", "words"),
    [
        (None, None, "there is none at"),
        ("a: [", None, "no usable kubeconfig"),
        ("- a list", None, "no usable kubeconfig"),
        ("", None, "no usable kubeconfig"),
        ("{contexts: []}", None, "it has no current-context"),
        ("{current-context: x}", None, 'context "x" is not in it; known: there are none'),
        ("{current-context: x, contexts: [{name: y}]}", "z", 'context "z" is not in it; known: y'),
        ("{current-context: y, contexts: [{name: y, context: {cluster: c, user: u}}]}", None, "no usable kubeconfig"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_one_line_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, context: str | None, words: str
) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    arguments = ["--context", context] if context else []
    assert run("status", "--kubeconfig", str(path), *arguments) == 1
    captured = capsys.readouterr().err
    assert words in captured
    assert "give --kubeconfig or set KUBECONFIG" in captured
    assert captured.count("\n") == 1


def test_an_apiserver_that_is_not_there_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = kubeconfig(tmp_path, **{"current-context": "plain"})
    assert run("status", "--kubeconfig", path) == 1
    captured = capsys.readouterr().err
    assert "the apiserver cannot be reached" in captured
    assert "refused" in captured
    assert captured.count("\n") == 1  # no log line of each try


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["why", "-h"], ["timeline", "-h"]])
def test_help_names_what_can_be_asked_and_how_to_connect(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 0
    said = capsys.readouterr().out
    assert "--namespace" in said
    assert "--kubeconfig FILE" in said
    if arguments == ["--help"]:
        for example in ("kubectl recast status home-fm -n shop", "kubectl recast why reels", "list and watch"):
            assert example in said


@pytest.mark.parametrize("arguments", [[], ["watch"], ["why"], ["status", "a", "b"], ["timeline", "x"]])
def test_what_cannot_be_asked_is_refused_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err.startswith("usage: kubectl recast")


def test_flags_before_the_verb_hold_unless_the_same_stands_after_it() -> None:
    assert parser().parse_args(["-n", "a", "status", "-n", "b"]).namespace == "b"
    assert parser().parse_args(["--context", "c", "status", "-n", "b"]).context == "c"


def test_an_error_of_the_cluster_is_one_of_its_own() -> None:
    with pytest.raises(ClusterError):
        Cluster(FakeApi(foundationmodels=ApiException(403, "no")), "n").world()  # type: ignore[arg-type]
    assert World.of([parse(raw_expert())]).unreadable == ()
