"""Registers Recast's scheduler with TorchX, as ``recast``. TorchX scans this namespace package for such modules."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from torchx.plugins import register

from recast_operator.adapters.credentials import from_kubeconfig, in_cluster
from recast_operator.adapters.job_scheduler import JobScheduler
from recast_operator.adapters.kube import Blocking, Exchange, HttpRequester


@register.scheduler(name="recast")  # type: ignore[untyped-decorator]
def create_scheduler(session_name: str, **kwargs: object) -> JobScheduler:
    """The scheduler. ``client``: an exchange with the apiserver; without one, ``kubeconfig`` or the pod's own account.

    TorchX turns every ``TORCHX_<NAME>`` of the environment into an argument here; others than these are ignored.
    """
    client = kwargs.get("client")
    if client is None or isinstance(client, str):
        kubeconfig = kwargs.get("kubeconfig")
        credentials = from_kubeconfig(Path(str(kubeconfig))) if kubeconfig else in_cluster()
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="recast-scheduler", daemon=True).start()
        exchange: Exchange = Blocking(HttpRequester(credentials), loop)
    else:
        exchange = client  # type: ignore[assignment]
    return JobScheduler(session_name, exchange)
