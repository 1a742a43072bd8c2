"""vqscale: scaling-law studies of linear-time, vector-quantised transformers on a Ray cluster."""
