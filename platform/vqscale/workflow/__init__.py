"""What a study's run does beyond training: predictions, fits, throughput, report, artifacts, the next study."""
