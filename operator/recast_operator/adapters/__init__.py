"""Everything outside the process: the apiserver, TorchX, Prometheus. Each answers with values or with our errors."""
