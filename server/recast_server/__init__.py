"""The servers: a foundation's (TAE over gRPC) and an expert's (ranking over HTTP), one process per pod.

Read :mod:`recast_server.main` first: it reads the pod's configuration and hands over to ``foundation.serve`` or
``expert.serve``. Both are made of the same parts in :mod:`recast_server.runtime`.
"""
