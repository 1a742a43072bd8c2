"""What a fitted law says: optimal sizes, queries, comparisons, registered predictions."""
