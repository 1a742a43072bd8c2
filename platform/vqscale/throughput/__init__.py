"""Speed and memory of training, measured in alternation against quadratic baselines."""
