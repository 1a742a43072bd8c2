"""VQ attention and vector quantisation in PyTorch (and, with a GPU, Triton)."""
