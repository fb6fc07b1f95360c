"""A real single-node Kubernetes for machines without one.

:mod:`dev.cluster.lifecycle` is the host's side of it, :mod:`dev.cluster.node` what runs inside.
"""
