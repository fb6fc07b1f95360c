"""The parts both servers share: threads, admin port, metrics, logs, the life of a process."""
