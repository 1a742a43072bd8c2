"""Triton kernels. Importing this package's modules needs triton; importing vqkernels does not."""
