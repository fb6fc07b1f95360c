"""Reading and watching the three kinds through the apiserver.

With :mod:`recast_cli.prometheus` this is all of the plugin's I/O.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from recast_api.resources import GROUP, VERSION
from recast_cli.world import PLURALS, Resource, World, parse

_WATCH_SECONDS = 240
_GONE = 410


class ClusterError(Exception):
    """The cluster cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Change:
    """One watch event, typed."""

    resource: Resource
    deleted: bool = False


@dataclass(frozen=True)
class Cluster:
    """A namespace of one cluster, for reading."""

    api: client.CustomObjectsApi
    namespace: str

    @classmethod
    def connect(cls, kubeconfig: str | None, context: str | None, namespace: str | None) -> Cluster:
        """As kubectl does: the given file or ``$KUBECONFIG`` or ``~/.kube/config``, its context, its namespace."""
        try:
            _, active = config.list_kube_config_contexts(config_file=kubeconfig)
            chosen = namespace or _namespace(kubeconfig, context) or active.get("context", {}).get("namespace")
            api = client.CustomObjectsApi(config.new_client_from_config(config_file=kubeconfig, context=context))
        except config.ConfigException as error:
            raise ClusterError(f"no usable kubeconfig: {error}; give --kubeconfig or set KUBECONFIG") from error
        return cls(api=api, namespace=chosen or "default")

    def world(self) -> World:
        """Everything of Recast in the namespace. Raises :class:`ClusterError`."""
        return World.of(resource for kind in PLURALS for resource in self._list(kind)[0])

    def watch(self, stop: threading.Event) -> Iterator[Change]:
        """All objects, then every change, until ``stop`` is set. Reconnects by itself and heals by listing."""
        changes: queue.Queue[Change | ClusterError] = queue.Queue()
        for kind in PLURALS:
            threading.Thread(target=self._follow, args=(kind, changes, stop), name=f"watch-{kind}", daemon=True).start()
        while not stop.is_set():
            try:
                change = changes.get(timeout=0.5)
            except queue.Empty:
                continue
            if isinstance(change, ClusterError):
                raise change
            yield change

    def _list(self, kind: str) -> tuple[list[Resource], str]:
        try:
            answer: dict[str, Any] = self.api.list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURALS[kind]
            )
        except ApiException as error:
            if error.status == 404:
                raise ClusterError(
                    f"this cluster does not know {PLURALS[kind]}.{GROUP}: install helm/recast first"
                ) from error
            raise ClusterError(f"cannot list {PLURALS[kind]} in {self.namespace}: {error.reason}") from error
        except Exception as error:
            raise ClusterError(f"the apiserver cannot be reached: {error}") from error
        items = [parse({"kind": kind, **item}) for item in answer["items"]]
        return items, str(answer["metadata"]["resourceVersion"])

    def _follow(self, kind: str, changes: queue.Queue[Change | ClusterError], stop: threading.Event) -> None:
        known: dict[str, Resource] = {}
        while not stop.is_set():
            try:
                listed, version = self._list(kind)
            except ClusterError as error:
                if not known:
                    changes.put(error)
                    return
                stop.wait(1)
                continue
            names = {resource.metadata.name for resource in listed}
            for name in [name for name in known if name not in names]:
                changes.put(Change(known.pop(name), deleted=True))
            for resource in listed:
                known[resource.metadata.name] = resource
                changes.put(Change(resource))
            self._stream(kind, version, known, changes, stop)

    def _stream(
        self,
        kind: str,
        version: str,
        known: dict[str, Resource],
        changes: queue.Queue[Change | ClusterError],
        stop: threading.Event,
    ) -> None:
        stream = watch.Watch()
        try:
            events = stream.stream(
                self.api.list_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                PLURALS[kind],
                resource_version=version,
                timeout_seconds=_WATCH_SECONDS,
            )
            for event in events:
                if stop.is_set():
                    return
                if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
                    continue
                resource = parse({"kind": kind, **event["object"]})
                deleted = event["type"] == "DELETED"
                if deleted:
                    known.pop(resource.metadata.name, None)
                else:
                    known[resource.metadata.name] = resource
                changes.put(Change(resource, deleted=deleted))
        except ApiException as error:
            if error.status != _GONE:
                stop.wait(1)
        except Exception:  # a broken connection: the caller lists again
            stop.wait(1)


def _namespace(kubeconfig: str | None, context: str | None) -> str | None:
    if context is None:
        return None
    contexts, _ = config.list_kube_config_contexts(config_file=kubeconfig)
    found = next((entry for entry in contexts if entry["name"] == context), None)
    if found is None:
        raise ClusterError(
            f'context "{context}" is not in the kubeconfig; known: {", ".join(c["name"] for c in contexts)}'
        )
    namespace = found.get("context", {}).get("namespace")
    return str(namespace) if namespace else None
