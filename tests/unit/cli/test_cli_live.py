"""``why`` with live figures: which queries are asked, what is shown, and what is said where there is no answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest_cli import T1, canary, metric, revision
from kubernetes import client

from recast_api.resources import ExpertModel, MetricName
from recast_cli import live, main, prometheus, why
from recast_cli.cluster import Cluster
from recast_cli.live import Figure, Live, NoAnswerError
from recast_cli.world import World

NOW = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
QUERY = 'sum(bad{revision="bbb"}[30s] or bad{revision="bbb"}[30s]) / sum(all{revision="bbb"}[30s])'
ANSWERS = {
    'sum(bad{revision="bbb"}[240s] or bad{revision="bbb"}[240s])': 12.0,
    'sum(all{revision="bbb"}[240s])': 400.0,
    'sum(bad{revision="aaa"}[240s] or bad{revision="aaa"}[240s])': 10.0,
    'sum(all{revision="aaa"}[240s])': 1000.0,
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine uses, it is not for the servers of these tests."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def on_trial(expert: Any, *results: dict[str, Any], **more: Any) -> ExpertModel:
    status = {"weightSince": T1, "results": list(results)} | more
    made: ExpertModel = expert(stable=revision("aaa", 1, 1), canary=canary("bbb", 2, 2, **status))
    return made


@pytest.mark.parametrize(
    ("name", "bound", "figure"),
    [
        ("error-rate", "max 0.01", Figure(0.03, 400)),
        ("slow-share", "stable + 0.05", Figure(0.03, 400, 0.01)),
        ("fresh-tae-share", "min 0.95", Figure(0.97, 400)),
    ],
)
def test_the_query_in_status_is_asked_again_up_to_now(expert: Any, name: str, bound: str, figure: Figure) -> None:
    seen = on_trial(expert, metric(name, "Inconclusive", "0", 12, bound=bound, query=QUERY))
    assert live.read(seen, ANSWERS.__getitem__, NOW) == Live({MetricName(name): figure})


@pytest.mark.parametrize("silent", [None, 0.0])
def test_without_requests_there_is_no_figure(expert: Any, silent: float | None) -> None:
    seen = on_trial(expert, metric("error-rate", "NoData", "", 0, bound="max 0.01", query=QUERY))
    assert live.read(seen, lambda query: silent, NOW) == Live()


def test_a_stable_revision_without_requests_leaves_the_canarys_figure(expert: Any) -> None:
    seen = on_trial(expert, metric("slow-share", "NoData", "", 0, bound="stable + 0.05", query=QUERY))
    answers = {query: value for query, value in ANSWERS.items() if "bbb" in query}
    assert live.read(seen, answers.get, NOW) == Live({MetricName.SLOW_SHARE: Figure(0.03, 400)})


def test_nothing_is_asked_without_a_canary_without_a_query_or_before_its_weight(expert: Any) -> None:
    def ask(query: str) -> float | None:
        raise AssertionError(query)

    result = metric("error-rate", "NoData", "", 0, bound="max 0.01")
    assert live.read(expert(), ask, NOW) == Live()
    assert live.read(on_trial(expert, result), ask, NOW) == Live()
    assert live.read(on_trial(expert, {**result, "query": QUERY}, weightSince=None), ask, NOW) == Live()


def test_the_first_question_without_an_answer_ends_the_asking(expert: Any) -> None:
    asked: list[str] = []

    def ask(query: str) -> float | None:
        asked.append(query)
        if len(asked) > 2:
            raise NoAnswerError("gone")
        return ANSWERS[query]

    results = [metric(name, "Success", "0", 1, bound="max 1", query=QUERY) for name in ("error-rate", "slow-share")]
    found = live.read(on_trial(expert, *results), ask, NOW)
    assert found == Live({MetricName.ERROR_RATE: Figure(0.03, 400)}, "gone")
    assert len(asked) == 3


def explained(expert: ExpertModel, figures: Live | None) -> str:
    return why.render(World.of([expert]), "reels", NOW, figures)


def test_why_shows_the_figure_of_now_beside_the_written_one_and_its_age(expert: Any) -> None:
    seen = on_trial(expert, metric("slow-share", "Inconclusive", "0.02", 12, bound="stable + 0.05", query=QUERY))
    text = explained(seen, Live({MetricName.SLOW_SHARE: Figure(0.03, 400, 0.01)}))
    assert "slow-share Inconclusive: 0.02 (stable + 0.05), 12 requests" in text
    assert "  now   0.0300 vs stable 0.0100, 400 requests" in text
    assert "verdicts and figures written 4m ago\n" in text


def test_why_says_how_to_get_live_figures_and_why_there_are_none(expert: Any) -> None:
    seen = on_trial(expert, metric("error-rate", "Inconclusive", "0.02", 12, bound="max 0.01", query=QUERY))
    assert f"written 4m ago; {why.HOW_TO_READ_LIVE}" in explained(seen, None)
    assert "written 4m ago; no live figures: HTTP 503: busy" in explained(seen, Live(error="HTTP 503: busy"))
    assert "written" not in explained(expert(), None)


Reply = tuple[int, bytes]


@contextmanager
def serving(reply: Callable[[str, dict[str, list[str]], str], Reply]) -> Iterator[str]:
    """An HTTP server that answers (path, parameters, Authorization)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            status, body = reply(url.path, parse_qs(url.query), self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def vector(*values: str) -> bytes:
    result = [{"metric": {}, "value": [0, value]} for value in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def test_prometheus_is_asked_at_its_url() -> None:
    asked: list[tuple[str, dict[str, list[str]]]] = []

    def reply(path: str, parameters: dict[str, list[str]], _: str) -> Reply:
        asked.append((path, parameters))
        return 200, vector("7") if len(asked) == 1 else vector()

    with serving(reply) as url:
        ask = prometheus.at_url(f"{url}/base/")
        assert ask('sum(x{a="b"}[3s])') == 7
        assert ask("up") is None
    assert asked[0] == ("/base/api/v1/query", {"query": ['sum(x{a="b"}[3s])']})


def test_prometheus_is_asked_through_the_apiserver_with_its_credentials() -> None:
    asked: list[tuple[str, dict[str, list[str]], str]] = []

    def reply(*request: Any) -> Reply:
        asked.append(request)
        return 200, vector("7")

    with serving(reply) as url:
        config = client.Configuration(host=url, api_key={"authorization": "Bearer secret"})
        ask = prometheus.through(client.ApiClient(config), "monitoring/prometheus:http")
        assert ask("up") == 7
    path = "/api/v1/namespaces/monitoring/services/prometheus:http/proxy/api/v1/query"
    assert asked == [(path, {"query": ["up"]}, "Bearer secret")]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, b'{"status": "error", "error": "parse error"}', "HTTP 400: parse error"),
        (404, b'{"kind": "Status", "status": "Failure", "message": "services x not found"}', "services x not found"),
        (200, b'{"status": "error", "error": "too many"}', "HTTP 200: too many"),
        (502, vector("7"), "HTTP 502: "),
        (200, b"<html>", "HTTP 200, and an answer that is not Prometheus's: b'<html>'"),
        (200, b"[]", "not Prometheus's"),
        (200, b'{"status": "success", "data": {"result": [{"value": [0, "many"]}]}}', "not Prometheus's"),
    ],
)
@pytest.mark.parametrize("way", ["url", "service"])
def test_an_answer_that_is_none_is_said_in_words(way: str, status: int, body: bytes, says: str) -> None:
    with serving(lambda *_: (status, body)) as url:
        api = client.ApiClient(client.Configuration(host=url))
        ask = prometheus.at_url(url) if way == "url" else prometheus.through(api, "a/b:9090")
        with pytest.raises(NoAnswerError) as caught:
            ask("up")
    assert says in str(caught.value)


def test_a_missing_permission_names_the_permission() -> None:
    with serving(lambda *_: (403, b"{}")) as url:
        ask = prometheus.through(client.ApiClient(client.Configuration(host=url)), "a/b:9090")
        with pytest.raises(NoAnswerError, match="you may not get services/proxy of a/b:9090; use --prometheus-url"):
            ask("up")


def test_nobody_there_is_said_with_the_address() -> None:
    with serving(lambda *_: (200, b"")) as url:
        pass  # nobody listens there any more
    with pytest.raises(NoAnswerError, match=f"Prometheus cannot be reached at {url}"):
        prometheus.at_url(url)("up")
    configuration = client.Configuration(host=url)
    configuration.retries = False
    with pytest.raises(NoAnswerError, match="the apiserver cannot be reached"):
        prometheus.through(client.ApiClient(configuration), "a/b:9090")("up")


@pytest.mark.parametrize("url", ["prometheus:9090", "file:///etc/passwd", "ftp://x/", "http://", "9090"])
def test_what_is_no_url_of_a_prometheus_is_refused(url: str) -> None:
    with pytest.raises(NoAnswerError, match="is no URL of a Prometheus"):
        prometheus.at_url(url)


@pytest.mark.parametrize("service", ["prometheus", "a/b", "a/b:", "A/b:1", "a/b:1/../../secrets", "/b:1"])
def test_what_names_no_service_is_refused(service: str) -> None:
    with pytest.raises(NoAnswerError, match="does not name a Service; give namespace/name:port"):
        prometheus.through(client.ApiClient(client.Configuration(host="http://127.0.0.1:1")), service)


def chosen(environment: dict[str, str], *arguments: str) -> live.Ask | None:
    cluster = Cluster(client.CustomObjectsApi(client.ApiClient(client.Configuration(host="http://127.0.0.1:1"))), "x")
    return main.prometheus_of(cluster, main.parser().parse_args(["why", "reels", *arguments]), environment)


def test_a_flag_goes_before_the_environment_and_without_either_nobody_is_asked() -> None:
    assert chosen({}) is None
    with serving(lambda *_: (200, vector("1"))) as one, serving(lambda *_: (200, vector("2"))) as two:
        environment = {"RECAST_PROMETHEUS_URL": one}
        from_environment, from_flag = chosen(environment), chosen(environment, "--prometheus-url", two)
        assert from_environment is not None
        assert from_flag is not None
        assert (from_environment("up"), from_flag("up")) == (1, 2)
        with pytest.raises(NoAnswerError, match="does not name a Service"):
            chosen(environment, "--prometheus-service", "nonsense")


def test_url_and_service_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        chosen({}, "--prometheus-url", "http://x", "--prometheus-service", "a/b:1")
    assert "not allowed with argument" in capsys.readouterr().err


def test_why_reads_status_and_prometheus_in_one_go(
    expert: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = on_trial(expert, metric("error-rate", "Inconclusive", "0.02", 12, bound="max 0.01", query=QUERY))
    cluster = Cluster(client.CustomObjectsApi(client.ApiClient(client.Configuration(host="http://127.0.0.1:1"))), "x")
    monkeypatch.setattr(Cluster, "connect", lambda *_: cluster)
    monkeypatch.setattr(Cluster, "world", lambda _: World.of([seen]))
    values = iter(["3", "100"])
    with serving(lambda *_: (200, vector(next(values)))) as url:
        main.main(["why", "reels", "--prometheus-url", url])
    assert "now   0.0300, 100 requests" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main.main(["why", "reels", "--prometheus-url", "nonsense"])
    assert 'kubectl recast: "nonsense" is no URL of a Prometheus' in capsys.readouterr().err
