"""The throughput study's page: its decision and its panels."""
