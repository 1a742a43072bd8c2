"""Whether a fit can be trusted: isoFLOP parabolas, hold-out, influence, variants, model selection."""
