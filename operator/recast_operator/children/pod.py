"""The pod of a server: what foundation and expert servers have in common, locked down to what they need."""

from __future__ import annotations

from dataclasses import dataclass

from recast_api import names
from recast_api.resources import ExpertServing, FoundationServing
from recast_api.resources.serving import AnswerLog, Histories
from recast_api.server import ExpertServerConfig, FoundationServerConfig
from recast_operator.children import answer_log, histories, items
from recast_operator.children.labels import Object
from recast_operator.children.security import container_security, pod_security

PRESTOP_SECONDS = 5
"""A terminating pod goes on answering for so long: endpoints and clients learn of its end later than it does."""


def scrape_annotations() -> dict[str, str]:
    """Where Prometheus finds the metrics."""
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(names.ADMIN_PORT),
        "prometheus.io/path": "/metrics",
    }


@dataclass(frozen=True)
class ServerPod:
    """What tells one server's pods from another's."""

    serving: FoundationServing | ExpertServing
    config: FoundationServerConfig | ExpertServerConfig
    """Its ``grace_seconds`` are set here, where the pod's own are."""
    claim: str
    """PersistentVolumeClaim with the artefacts, mounted read-only."""
    ports: dict[str, int]
    """By name; the admin port comes on top."""
    marks: dict[str, str]
    """The pods' labels."""

    def template(self) -> Object:
        """The pod template: non-root, read-only, no service account token."""
        return {
            "metadata": {"labels": self.marks, "annotations": scrape_annotations()},
            "spec": {
                "serviceAccountName": names.SERVER_SERVICE_ACCOUNT,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": self.serving.termination_grace_period_seconds,
                "securityContext": pod_security(),
                "containers": [self._container()],
                "volumes": [
                    {"name": "models", "persistentVolumeClaim": {"claimName": self.claim, "readOnly": True}},
                    {"name": "tmp", "emptyDir": {}},
                    *histories.volumes(self._histories),
                    *items.volumes(self.serving.items),
                    *answer_log.volumes(self._answer_log),
                ],
            },
        }

    @property
    def _histories(self) -> Histories | None:
        return self.serving.histories if isinstance(self.serving, ExpertServing) else None

    @property
    def _answer_log(self) -> AnswerLog | None:
        return self.serving.answer_log if isinstance(self.serving, ExpertServing) else None

    def _container(self) -> Object:
        resources, grace = self.serving.resources.wire(), self.serving.termination_grace_period_seconds
        prestop = min(PRESTOP_SECONDS, grace // 2)
        config = self.config.model_copy(update={"grace_seconds": grace - prestop})
        every_port = {**self.ports, "admin": names.ADMIN_PORT}
        return {
            "name": "server",
            "image": self.serving.image,
            "imagePullPolicy": "IfNotPresent",
            "env": [
                *_environment(config.model_dump_json(by_alias=True, exclude_none=True)),
                *histories.environment(self._histories),
            ],
            "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in every_port.items()],
            "resources": resources,
            "volumeMounts": [
                {"name": "models", "mountPath": names.MODELS_MOUNT, "readOnly": True},
                {"name": "tmp", "mountPath": names.SCRATCH_MOUNT},
                *histories.mounts(self._histories),
                *items.mounts(self.serving.items),
                *answer_log.mounts(self._answer_log),
            ],
            "startupProbe": _probe("startup", period=2, failures=150),
            "livenessProbe": _probe("live", period=10, failures=6),
            "readinessProbe": _probe("ready", period=2, failures=3),
            "lifecycle": {"preStop": {"sleep": {"seconds": prestop}}},
            "securityContext": container_security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }


def _environment(config: str) -> list[Object]:
    """No count of threads: the server reads its CPU limit itself, and a count in the image shall win."""
    return [
        {"name": names.SERVER_ENV, "value": config},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]


def _probe(check: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": f"/healthz/{check}", "port": "admin"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


ROLLING: Object = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
"""Never fewer ready pods while they are replaced."""
RECREATE: Object = {"type": "Recreate"}
"""A pod is gone before the next starts: what it writes to has one writer."""


def deployment(
    metadata: Object, selector: dict[str, str], replicas: int, pod: Object, strategy: Object = ROLLING
) -> Object:
    """A Deployment of such pods."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 1,
            "strategy": strategy,
            "selector": {"matchLabels": selector},
            "template": pod,
        },
    }
