"""Trained models as values: model, tokenizer and state, without Ray, DeepSpeed or MLflow."""
