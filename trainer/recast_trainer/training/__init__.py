"""The training loops and what they stand on: checkpoints and the process group."""
