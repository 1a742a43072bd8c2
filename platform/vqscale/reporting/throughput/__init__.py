"""The page of a throughput study: comparisons with the baselines in sentences, and charts."""
