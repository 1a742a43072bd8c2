"""Synthetic results of a study, for tests of what is made from them: runs of a law with noise, and classifiers."""

import itertools

import numpy as np

from vqscale.results import AccuracyBucket, PositionLoss, Result

SIZES = {"pico": 31_104, "nano": 65_024, "micro": 166_848, "mini": 388_608, "small": 887_296}
FINGERPRINT = "5e1f" * 16


def make_run(arch="transformer_vq", preset="nano", codebook=64, context=512, tokens=1_000_000, **changes):
    n, vq = SIZES[preset], arch == "transformer_vq"
    noise = np.random.default_rng([n, tokens, context, codebook or 0, vq]).normal(0, 0.003)
    loss = (0.75 + 9 * n**-0.28 + 60 * tokens**-0.35 + (0.6 * codebook**-0.5 if vq else 0)) * np.exp(noise)
    loss *= (context / 512) ** -0.02
    edges = [0, *2 ** np.arange(5, int(np.log2(context)) + 1)]
    values = {
        "study": "quickstart",
        "trial_id": f"{arch}{preset}{codebook}{context}{tokens}",
        "name": f"{'vq' if vq else 'full'}-{preset}"
        + (f"-S{codebook}" if vq else "")
        + f"-T{context}-D{tokens // 1000}k",
        "status": "finished",
        "arch": arch,
        "head": "shga" if vq else None,
        "preset": preset,
        "seed": 0,
        "d_model": 64,
        "n_layer": 2,
        "codebook_size": codebook if vq else None,
        "block_length": 64 if vq else None,
        "context": context,
        "segment": context,
        "tokens": tokens,
        "steps": tokens // 8192,
        "batch_tokens": 8192,
        "lr": 3e-3,
        "precision": "fp32",
        "engine": "deepspeed",
        "zero": 1,
        "workers": 1,
        "parameters": n + 20_000,
        "parameters_non_embedding": n,
        "parameter_groups": {"embedding": 20_000, "projections": n},
        "flops": 6.6 * n * tokens,
        "flops_groups": {"projections": 6.6 * n},
        "loss": float(loss),
        "bpb": float(loss / np.log(2)),
        "perplexity": float(np.exp(loss)),
        "train_loss": float(loss * 0.98),
        "loss_by_position": [
            PositionLoss(start=int(a), end=int(b), nats=float(loss * (1 + 0.4 * (a + 8) ** -0.5)))
            for a, b in itertools.pairwise(edges)
        ],
        "tokens_per_second": 9e8 / n,
        "flops_per_second": 6e9,
        "peak_flops": 6e10,
        "peak_memory_bytes": 300 << 20,
        "state_bytes": 65_536,
        "code_perplexity": 0.7 * codebook if vq else None,
        "dead_codes": 0.05 if vq else None,
        "quantisation_error": 2.0 * codebook**-0.5 if vq else None,
        "revived": 3 if vq else None,
        "seconds_training": tokens * n / 9e8,
        "seconds_overhead": 3.4,
        "seconds_evaluation": 1.2,
        "attempts": 1,
        "device": "cpu (x86_64, 1 threads)",
        "backend": "blockwise" if vq else None,
        "error": None,
        "corpus": "stdlib",
        "corpus_fingerprint": FINGERPRINT,
        "versions": {"torch": "2.13.0", "ray": "2.60.0"},
        "git": "0123456789abcdef",
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    return Result.model_validate(values | changes)


def unfinished(status, error):
    absent = ["loss", "bpb", "perplexity", "train_loss", "seconds_training", "seconds_evaluation", "code_perplexity"]
    return make_run(preset="mini", seed=1, trial_id=status, name=f"vq-mini-{status}", status=status, error=error,
                    loss_by_position=[], **dict.fromkeys(absent))  # fmt: skip


def make_classifier(arch="transformer_vq", seed=0, accuracy=0.8, **changes):
    """A run on 100 held-out examples of two classes, 60 of the first, of two lengths."""
    right = round(100 * accuracy)
    values = {
        "task": "classification", "seed": seed, "bpb": None, "perplexity": None, "loss_by_position": [],
        "trial_id": f"{arch}{seed}{accuracy}", "name": f"{arch}-seed{seed}", "classes": 2, "examples": 100,
        "accuracy": accuracy, "balanced_accuracy": accuracy - 0.05, "macro_f1": accuracy - 0.1,
        "test_accuracy": accuracy - 0.02, "confusion": [[60, 0], [100 - right, right - 60]],
        "class_names": ["ham", "spam"],
        "accuracy_by_length": [
            AccuracyBucket(start=8, end=16, labels=40, accuracy=1.0),
            AccuracyBucket(start=16, end=32, labels=60, accuracy=(right - 40) / 60),
        ],
    }  # fmt: skip
    return make_run(arch, **values | changes)


def make_study_results() -> list[Result]:
    """VQ over size, tokens, codebook and context, a quadratic baseline, a failure and a divergence."""
    runs = [make_run(preset=preset) for preset in SIZES]
    runs += [
        make_run(preset=preset, tokens=tokens)
        for preset in ("pico", "nano", "micro")
        for tokens in (300_000, 3_000_000)
    ]
    runs += [make_run(preset="micro", codebook=codebook) for codebook in (16, 32, 128, 256)]
    runs += [make_run(preset="micro", context=context) for context in (256, 2048)]
    runs += [make_run("transformer", preset=preset) for preset in SIZES]
    return [
        *runs,
        unfinished("diverged", "loss is NaN at step 40"),
        unfinished("failed", "worker died: <out of memory>"),
    ]
