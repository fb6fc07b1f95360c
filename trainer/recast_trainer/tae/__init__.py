"""The TAE log: how a foundation's embeddings reach experts without the labels they were trained on."""
