"""The expert's server: ranking over HTTP, with the foundation's embeddings or without them."""
