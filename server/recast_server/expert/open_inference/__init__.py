"""The Open Inference Protocol, version 2, which stock clients speak: an expert as a model with tensors in and out."""
