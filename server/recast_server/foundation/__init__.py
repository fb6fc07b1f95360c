"""The foundation's server: target-aware embeddings over gRPC."""
