"""Training runs: whether one is due, how it lives, and what its pods are told.

:mod:`inputs` names what a run is made from, :mod:`known` says what has become of such inputs before, :mod:`lifecycle`
takes a run from its reservation to its version, :mod:`attempts` decides what follows on an attempt that failed, and
:mod:`run_spec` writes the configuration of one attempt. :mod:`state` is what stands between two passes.
"""
