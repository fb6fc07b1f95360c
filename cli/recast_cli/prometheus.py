"""Ways to Prometheus: at a URL, or through the apiserver's service proxy with the kubeconfig's own credentials."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from kubernetes import client

from recast_cli.live import Ask, NoAnswerError

TIMEOUT_SECONDS = 5.0
ANSWER_BYTES = 65536
_SERVICE = re.compile(r"(?P<namespace>[a-z0-9-]+)/(?P<name>[a-z0-9-]+):(?P<port>[a-z0-9-]+)")


def at_url(url: str) -> Ask:
    """Ask the Prometheus at a URL. Raises :class:`NoAnswerError` where it is no http URL."""
    base = urllib.parse.urlsplit(url)
    if base.scheme not in ("http", "https") or not base.netloc:
        raise NoAnswerError(f'"{url}" is no URL of a Prometheus; give one such as http://127.0.0.1:9090')

    def ask(query: str) -> float | None:
        address = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:
                return number(answer.status, answer.read(ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            return number(error.code, error.read(ANSWER_BYTES))
        except OSError as error:
            raise NoAnswerError(f"Prometheus cannot be reached at {url}: {error}") from error

    return ask


def through(api: client.ApiClient, service: str) -> Ask:
    """Ask a Service ``namespace/name:port`` through the apiserver. Raises :class:`NoAnswerError` for another form."""
    parts = _SERVICE.fullmatch(service)
    if parts is None:
        raise NoAnswerError(f'"{service}" does not name a Service; give namespace/name:port')
    path = "/api/v1/namespaces/{namespace}/services/{name}:{port}/proxy/api/v1/query".format(**parts.groupdict())

    def ask(query: str) -> float | None:
        asked = api.param_serialize(
            method="GET", resource_path=path, query_params=[("query", query)], auth_settings=["BearerToken"]
        )
        try:
            answer = api.call_api(*asked, _request_timeout=TIMEOUT_SECONDS)
            body = answer.read()
        except Exception as error:  # whatever the client library raises: the apiserver did not answer
            raise NoAnswerError(f"the apiserver cannot be reached: {error}") from error
        if answer.status == 403:
            raise NoAnswerError(f"you may not get services/proxy of {service}; use --prometheus-url")
        return number(answer.status, body[:ANSWER_BYTES])

    return ask


def number(status: int, body: bytes) -> float | None:
    """The one number in an answer of the query API; None where there is no series."""
    try:
        answer: Any = json.loads(body)
        if status != 200 or answer["status"] != "success":
            raise NoAnswerError(f"HTTP {status}: {str(answer.get('error') or answer.get('message') or '')[:200]}")
        result = answer["data"]["result"]
        return float(result[0]["value"][1]) if result else None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise NoAnswerError(f"HTTP {status}, and an answer that is not Prometheus's: {body[:80]!r}") from error
