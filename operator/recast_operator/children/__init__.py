"""Pure builders: one file a child kind, values in, a Kubernetes object as a dict out."""
