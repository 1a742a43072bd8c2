"""Attention of blocks of queries to windows of keys around them: what local and vector-quantised attention share."""
