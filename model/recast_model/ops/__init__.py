"""Operations with one PyTorch reference each; a faster kernel would stand beside its reference and be tested by it."""
