"""Submitting training runs through TorchX, from the event loop.

TorchX is synchronous, so its calls run in a small pool of threads; the requests that its scheduler makes come back to
the loop's one HTTP session. The handle that TorchX returns is a function of the Job's name, so nothing of TorchX's own
memory is relied on after a restart.
"""

from __future__ import annotations

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor

from torchx.runner import Runner
from torchx.schedulers import get_scheduler_factories

from recast_api import names
from recast_operator.adapters import appdef
from recast_operator.adapters.errors import Invalid
from recast_operator.adapters.job_scheduler import BACKEND
from recast_operator.adapters.kube import Blocking, Requester
from recast_operator.planning.plan import SubmitRun

MAX_THREADS = 4


class Launcher:
    """Turns :class:`SubmitRun` into a Job, through TorchX. Made inside the running event loop."""

    def __init__(self, requester: Requester) -> None:
        factories = get_scheduler_factories(skip_defaults=True)
        if BACKEND not in factories:
            raise RuntimeError(
                f"TorchX does not know the scheduler {BACKEND!r}: torchx_plugins/schedulers/recast.py is not importable"
            )
        # TorchX logs each of its calls with its whole configuration as an "event", at info.
        logging.getLogger("torchx-events-null").disabled = True
        # The client is passed here and wins over any TORCHX_CLIENT of the environment.
        self._runner = Runner(
            name="",
            scheduler_factories={BACKEND: factories[BACKEND]},
            scheduler_params={"client": Blocking(requester, asyncio.get_running_loop())},
        )
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="torchx")

    async def submit(self, namespace: str, request: SubmitRun) -> str:
        """Create or adopt the Job of one attempt; the TorchX handle.

        Raises :class:`~recast_operator.adapters.errors.OutsideError`; :class:`Invalid` where TorchX refuses the AppDef.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._submit, namespace, request)

    def _submit(self, namespace: str, request: SubmitRun) -> str:
        run, training = request.run, request.training
        labels = {
            names.LABEL_KIND: names.TRAINERS[run.kind],
            names.LABEL_MODEL: run.model,
            names.LABEL_RUN: str(run.number),
            names.LABEL_ATTEMPT: str(run.attempt),
        }
        options: dict[str, str | int] = {
            "namespace": namespace,
            "service_account": names.TRAINER_SERVICE_ACCOUNT,
            "active_deadline_seconds": training.active_deadline_seconds,
            "ttl_seconds_after_finished": training.ttl_seconds_after_finished,
            "owner": json.dumps(request.owner),
            "labels": json.dumps(labels),
        }
        try:
            info = self._runner.dryrun(appdef.build(request), BACKEND, options)
        except ValueError as error:
            raise Invalid(f"training run {run.job_name}: {error}") from error
        handle: str = self._runner.schedule(info)
        self._runner._apps.clear()  # TorchX remembers every app for ever; the cluster is our memory
        return handle

    def close(self) -> None:
        """Wait for no thread and take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._runner.close()
