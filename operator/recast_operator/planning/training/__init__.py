"""Training runs: what one is made from, how it lives, and what its pods are told."""
