"""The versions of one model: which are ours, which may serve, and which are retired."""
