"""Vector quantisation of keys: nearest code, running statistics, codebook."""
