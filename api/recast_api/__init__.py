"""What every part of Recast agrees on: resources, artefacts, names, and the contracts between pods and the operator.

Nothing here does I/O, and nothing here imports torch, kopf or kubernetes, so that every image can hold it.
"""

__version__ = "0.1.0"
"""Of all parts, as ``pyproject.toml`` has it: images hold the code without its package's metadata."""
