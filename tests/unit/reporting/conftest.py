"""A synthetic study: VQ over size, tokens, codebook and context, a quadratic baseline, a failure and a divergence."""

import numpy as np
import pytest
from synthetic_runs import FINGERPRINT, make_classifier, make_run, make_study_results, unfinished

from vqscale.laws import fit_study
from vqscale.results import read_table, write_table
from vqscale.results.references import parse_references
from vqscale.throughput.assemble import make_table
from vqscale.throughput.measurement import Measurement
from vqscale.throughput.plan import plan_throughput
from vqscale.throughput.request import default_study, with_options

REFERENCES = parse_references(
    {f"{FINGERPRINT[:12]}/65536": {"bytes": 65536, "unigram_bpb": 4.62, "gzip_bpb": 2.31, "xz_bpb": 2.12}}
)


@pytest.fixture(scope="session")
def make_classifier_run():
    return make_classifier


@pytest.fixture(scope="session")
def study_results():
    return make_study_results()


SPEEDS = {
    "transformer_vq": lambda context: 4000.0,
    "transformer_full": lambda context: 6000 / (1 + context / 3000),
    "transformer": lambda context: 9000 / (1 + context / 4000),
    "gla": lambda context: 3000.0,
    "transformer_window": lambda context: 9000.0,
    "mega": lambda context: 1e7 / (1500 + context),
}
"""Tokens per second by T: break-even with transformer_full at T = 1500, with transformer at T = 5000."""


def throughput_table(starving=(("transformer_full", 32768),), archs=None, **values):
    """A table whose repeats are 5 % slower than `SPEEDS`, as fast, and 4 % faster; ratios within a repeat are equal."""
    axes = {"context": [512, 2048, 8192, 32768], "preset": ["mini"], "batch": [1]} | ({"arch": archs} if archs else {})
    plan = plan_throughput(with_options(default_study("speed"), axes, {"repeats": 3} | values))
    measured = {}
    for one, cell in plan.cells:
        starved = (cell.model.arch, cell.context) in starving
        step = cell.context / SPEEDS[cell.model.arch](cell.context)
        measured[one.id(cell)] = Measurement(
            status="out of memory" if starved else "ok",
            step_seconds=[] if starved else [step / 0.95, step, step / 1.04],
            process_repeats=[] if starved else [1, 1, 1],
            updates_per_repeat=1,
            peak_memory_bytes=None if starved else 2**20 + cell.context * 1024,
            peak_flops=1e12,
            device="a processor",
            threads=2,
            machine="a processor, 2 cores usable, 8 GiB memory",
            versions={"python": "3.11.7", "torch": "2.13.0"},
            git="0123456789abcdef",
            measured_at="2026-01-02T03:04:05+00:00",
        )
    return make_table(plan, measured)


@pytest.fixture(scope="session")
def throughput():
    return throughput_table(price_per_device_hour=2.0)


@pytest.fixture(scope="session")
def make_throughput():
    return throughput_table


@pytest.fixture(scope="session")
def references():
    return REFERENCES


# A synthetic isoFLOP study of three architectures with context and codebook designs, and the fits of it.

ARCHS = {"transformer_vq": (1.00, 8.2), "transformer_full": (0.985, 9.5), "transformer": (0.97, 7.9)}
"""Factor of the law's coefficients, and FLOPs per token and parameter at T = 512."""
LADDER = {
    "d16x2": 12_000,
    "d24x2": 22_000,
    "d32x2": 38_000,
    "d40x2": 58_000,
    "d48x2": 82_000,
    "d64x2": 140_000,
    "d64x3": 205_000,
    "d80x3": 310_000,
    "d96x3": 450_000,
    "d128x3": 780_000,
}
BUDGETS = (5e10, 1.6e11, 5e11, 1.6e12, 5e12)
E, A, ALPHA, B, BETA = 1.1, 40.0, 0.36, 180.0, 0.40
"""Of the true law in bits per byte."""


def flops_per_token(arch, n, context):
    base = ARCHS[arch][1]
    return base * n * (1 + (0 if arch == "transformer_vq" else context / 4096))


def true_loss(arch, n, tokens, context=512, codebook=64):
    factor = ARCHS[arch][0]
    codes = 1 + 0.004 * (64 / codebook) ** 0.7 if arch == "transformer_vq" else 1.0
    return codes * (E + factor * A * n**-ALPHA + factor * B * tokens**-BETA) * (context / 512) ** -0.012


def design_run(arch, size, *, budget=None, tokens=None, context=512, codebook=64, seed=0):
    n = LADDER[size]
    per_token = flops_per_token(arch, n, context) * (1 + 0.02 * np.log2(codebook / 64))
    tokens = tokens or round(budget / per_token / 1024) * 1024
    noise = np.random.default_rng([n, tokens, context, codebook, seed, len(arch)]).normal(0, 0.002)
    bpb = true_loss(arch, n, tokens, context, codebook) * np.exp(noise)
    seconds = tokens * per_token / 1.8e10
    name = f"{arch[12:] or 'base'}-{size}-T{context}-S{codebook}-D{tokens}-seed{seed}"
    base = make_run(arch, "nano", codebook, context, tokens)
    pieces = [one.model_copy(update={"nats": one.nats * 0.8 * bpb / base.loss}) for one in base.loss_by_position]
    own = {
        "preset": size,
        "seed": seed,
        "name": name,
        "trial_id": name,
        "parameters_non_embedding": n,
        "parameters": n + 20_000,
        "flops": per_token * tokens,
        "flops_groups": {"all": per_token},
        "loss": 0.8 * bpb,
        "bpb": bpb,
        "perplexity": np.exp(0.8 * bpb),
        "lr": 8e-3,
        "batch_tokens": 1024,
        "steps": tokens // 1024,
        "d_model": int(size[1:].split("x")[0]),
        "n_layer": int(size[-1]),
        "tokens_per_second": tokens / seconds,
        "flops_per_second": 1.8e10,
        "seconds_training": seconds,
        "loss_by_position": pieces,
    }
    return base.model_copy(update=own)


def best_size(arch, budget):
    """The size with the lowest loss that the law gives at a budget."""
    sizes = np.geomspace(5e3, 5e7, 400)
    return sizes[np.argmin(true_loss(arch, sizes, budget / flops_per_token(arch, sizes, 512)))]


def isoflop_runs():
    """Sizes around the optimum at every budget, three seeds at the smallest; context and codebook designs."""
    for arch in ARCHS:
        for budget in BUDGETS:
            best = best_size(arch, budget)
            chosen = sorted(LADDER, key=lambda size, best=best: abs(np.log(LADDER[size] / best)))[:5]
            for seed in (0, 1, 2) if budget == BUDGETS[0] else (0,):
                yield from (design_run(arch, size, budget=budget, seed=seed) for size in chosen)
        for size in ("d24x2", "d48x2"):
            for context in (256, 1024):
                yield from (design_run(arch, size, budget=budget, context=context) for budget in (1.6e11, 5e11))
            yield from (design_run(arch, size, tokens=524_288, context=context) for context in (256, 512, 1024))
    for size in ("d24x2", "d48x2"):
        for budget in (1.6e11, 5e11):
            yield design_run("transformer_vq", size, budget=budget)
            yield from (design_run("transformer_vq", size, budget=budget, codebook=codes) for codes in (16, 256))


@pytest.fixture(scope="session")
def isoflop_results():
    runs = {run.trial_id: run for run in isoflop_runs()}
    return [*runs.values(), unfinished("failed", "worker died")]


@pytest.fixture(scope="session")
def isoflop_table(isoflop_results, tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("isoflop") / "results.parquet")
    write_table(isoflop_results, uri)
    return read_table(uri)


@pytest.fixture(scope="session")
def isoflop_fits(isoflop_table):
    """The largest budget is held out, as the design of such a study does."""
    return fit_study(isoflop_table, ["chinchilla"], bootstrap=20, hold_out_from=0.97 * BUDGETS[-1])
