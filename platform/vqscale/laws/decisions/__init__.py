"""Uses of a fitted law: compute-optimal sizes, queries, comparisons, registered predictions."""
