"""What every part of Recast agrees on: resources, artefacts, names, and the contracts between pods and the operator.

Nothing here does I/O, and nothing here imports torch, kopf or kubernetes, so that every image can hold it.
"""
