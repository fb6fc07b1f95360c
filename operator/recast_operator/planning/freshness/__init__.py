"""Whether an expert's version is stale, and whether it is to be refreshed.

:mod:`target` resolves the foundation version to read, :mod:`policies` compares it with what serves, :mod:`refresh`
decides whether the expert asks for a slot.
"""
