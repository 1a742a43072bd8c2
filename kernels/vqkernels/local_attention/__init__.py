"""Attention of each block of queries to the keys of its own and the neighbouring blocks, in linear time."""
