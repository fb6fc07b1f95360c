"""Reading and watching the three kinds through the apiserver.

With :mod:`recast_cli.prometheus` this is all of the plugin's I/O.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from recast_api.names import PLURALS
from recast_api.resources import GROUP, VERSION
from recast_cli.world import Resource, Unreadable, World, read

_WATCH_SECONDS = 240
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 30
_PAUSE_SECONDS = 1
"""Between the end of one watch and the next listing, however the watch ended: a proxy may end each one at once."""
_PAGE = 500


class ClusterError(Exception):
    """The cluster cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Change:
    """One watch event, typed."""

    resource: Resource
    deleted: bool = False


_Changes = queue.Queue[Change | Unreadable | ClusterError]


@dataclass(frozen=True)
class Cluster:
    """A namespace of one cluster, for reading."""

    api: client.CustomObjectsApi
    namespace: str

    @classmethod
    def connect(cls, kubeconfig: str | None, context: str | None, namespace: str | None) -> Cluster:
        """As kubectl does: the given file or ``$KUBECONFIG`` or ``~/.kube/config``, its context, its namespace."""
        try:
            chosen = _context(kubeconfig, context)
            settings = client.Configuration()
            settings.retries = 0  # a person waits: say at once what is wrong
            api = config.new_client_from_config(kubeconfig, context=context, client_configuration=settings)
        except Exception as error:  # the client library checks little of what it reads
            raise ClusterError(f"no usable kubeconfig: {error}; give --kubeconfig or set KUBECONFIG") from error
        return cls(api=client.CustomObjectsApi(api), namespace=namespace or chosen.get("namespace") or "default")

    def world(self) -> World:
        """Everything of Recast in the namespace, with what cannot be read. Raises :class:`ClusterError`."""
        return World.of(item for kind in PLURALS for item in self._list(kind)[0])

    def watch(
        self, stop: threading.Event, unreadable: Callable[[Unreadable], None] = lambda found: None
    ) -> Generator[Change, None, None]:
        """All objects, then every change, until ``stop`` is set. Reconnects by itself and heals by listing.

        Sets ``stop`` itself where the iteration ends in another way, so that no thread goes on reading. An object that
        cannot be read is given to ``unreadable`` instead. Raises :class:`ClusterError` where a kind cannot be listed
        at all.
        """
        changes: _Changes = queue.Queue()
        for kind in PLURALS:
            threading.Thread(target=self._follow, args=(kind, changes, stop), name=f"watch-{kind}", daemon=True).start()
        try:
            while not stop.is_set():
                try:
                    change = changes.get(timeout=0.5)
                except queue.Empty:
                    continue
                if isinstance(change, ClusterError):
                    raise change
                if isinstance(change, Unreadable):
                    unreadable(change)
                else:
                    yield change
        finally:
            stop.set()

    def _list(self, kind: str) -> tuple[list[Resource | Unreadable], str]:
        """All objects of a kind, and the version from which to watch."""
        found: list[Resource | Unreadable] = []
        page: str | None = None
        while True:
            try:
                answer: dict[str, Any] = self.api.list_namespaced_custom_object(
                    GROUP,
                    VERSION,
                    self.namespace,
                    PLURALS[kind],
                    limit=_PAGE,
                    _continue=page,
                    _request_timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS),
                )
            except Exception as error:
                raise ClusterError(_words(error, kind, self.namespace)) from error
            found += [read({**item, "kind": kind}) for item in answer["items"]]
            page = answer["metadata"].get("continue")
            if not page:
                return found, str(answer["metadata"]["resourceVersion"])

    def _follow(self, kind: str, changes: _Changes, stop: threading.Event) -> None:
        seen, began = _Seen(), False
        while not stop.is_set():
            try:
                listed, version = self._list(kind)
            except ClusterError as error:
                if not began:
                    changes.put(error)
                    return
                stop.wait(_PAUSE_SECONDS)
                continue
            began = True
            names = {item.name if isinstance(item, Unreadable) else item.metadata.name for item in listed}
            seen.keep(names, changes)
            for item in listed:
                seen.put(item, changes)
            self._stream(kind, version, seen, changes, stop)
            stop.wait(_PAUSE_SECONDS)

    def _stream(self, kind: str, version: str, seen: _Seen, changes: _Changes, stop: threading.Event) -> None:
        """Changes from ``version`` on, until the apiserver ends the watch or ``stop`` is set."""
        try:
            events = watch.Watch().stream(
                self.api.list_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                PLURALS[kind],
                resource_version=version,
                timeout_seconds=_WATCH_SECONDS,
                _request_timeout=(_CONNECT_SECONDS, _WATCH_SECONDS + _ANSWER_SECONDS),
            )
            for event in events:
                if stop.is_set():
                    return
                if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                    item = read({**event["object"], "kind": kind})
                    seen.put(item, changes, deleted=event["type"] == "DELETED")
        except Exception:  # a version that is too old, a broken connection: the caller lists again
            return


class _Seen:
    """What a watch of one kind has told, so that a new listing can say what is gone."""

    def __init__(self) -> None:
        self._readable: dict[str, Resource] = {}
        self._unreadable: set[Unreadable] = set()

    def put(self, item: Resource | Unreadable, changes: _Changes, *, deleted: bool = False) -> None:
        """Pass on one state of one object; that it cannot be read is said once."""
        if isinstance(item, Unreadable):
            if not deleted and item not in self._unreadable:
                self._unreadable.add(item)
                changes.put(item)
            return
        if deleted:
            self._readable.pop(item.metadata.name, None)
        else:
            self._readable[item.metadata.name] = item
        changes.put(Change(item, deleted=deleted))

    def keep(self, names: set[str], changes: _Changes) -> None:
        """Pass on that all but these are gone."""
        for name in self._readable.keys() - names:
            changes.put(Change(self._readable.pop(name), deleted=True))


def _words(error: Exception, kind: str, namespace: str) -> str:
    """What a person can do about an error of the apiserver, or of the way to it."""
    what = f"{PLURALS[kind]}.{GROUP}"
    if isinstance(error, ApiException) and error.status:
        known = {
            401: "the apiserver does not accept the kubeconfig's credentials: log in again",
            403: f"you may not list {what} in namespace {namespace}: ask for get, list and watch on {GROUP} there",
            404: f"this cluster does not know {what}: install helm/recast first",
        }
        return known.get(error.status, f"cannot list {what} in namespace {namespace}: {error.status} {error.reason}")
    reason = getattr(error, "reason", None) or error
    return f"the apiserver cannot be reached: {reason}"


def _context(kubeconfig: str | None, name: str | None) -> dict[str, Any]:
    """Cluster, user and namespace of the context called ``name``, or of the current one."""
    path = kubeconfig or config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    merged = config.kube_config.KubeConfigMerger(path).config
    if merged is None:
        raise ValueError(f"there is none at {path}")
    contexts = {entry.value["name"]: entry.value.get("context") or {} for entry in merged.value["contexts"]}
    wanted = name or merged.value.get("current-context")
    if wanted not in contexts:
        known = ", ".join(contexts) or "there are none"
        raise ValueError(f'context "{wanted}" is not in it; known: {known}' if wanted else "it has no current-context")
    chosen: dict[str, Any] = contexts[wanted]
    return chosen
