"""Pure builders: one file a child kind, values in, a Kubernetes object as a dict out.

``record``, ``drift`` and ``why`` read such an object back: what was applied, what somebody has changed, and in words.
"""
