"""Sentences of the summary, each with the runs, seeds, texts and baselines that it rests on."""
