"""A synthetic study: VQ over size, horizon, codebook and context, a quadratic baseline, one failure, one divergence."""

import itertools

import numpy as np
import pytest

from vqscale.bench.assemble import make_table
from vqscale.bench.plan import plan_throughput
from vqscale.bench.record import Measurement
from vqscale.bench.request import default_study, with_options
from vqscale.laws.record import (
    Candidate,
    ComparedPoint,
    Comparison,
    Convention,
    CrossCheck,
    Estimate,
    Fit,
    Frontier,
    HoldOut,
    Influence,
    Interval,
    Isoflop,
    IsoflopRow,
    Method,
    Optimum,
    Point,
    Refusal,
    Selection,
    StudyFits,
    Variant,
    Window,
)
from vqscale.results import PositionLoss, Result

SIZES = {"pico": 31_104, "nano": 65_024, "micro": 166_848, "mini": 388_608, "small": 887_296}
FINGERPRINT = "5e1f" * 16
REFERENCES = {f"{FINGERPRINT[:12]}/65536": {"bytes": 65536, "unigram_bpb": 4.62, "gzip_bpb": 2.31, "xz_bpb": 2.12}}


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


@pytest.fixture(scope="session")
def study_results():
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


SPEEDS = {
    "transformer_vq": lambda context: 4000.0,
    "transformer_full": lambda context: 6000 / (1 + context / 3000),
    "transformer": lambda context: 9000 / (1 + context / 4000),
}
"""Tokens a second by T: break-even with transformer_full at T = 1500, with transformer at T = 5000."""


def throughput_table(starving=(("transformer_full", 32768),), **values):
    """A table whose repeats are 5 % slower, as the law says, and 4 % faster; ratios within a repeat do not vary."""
    axes = {"context": [512, 2048, 8192, 32768], "preset": ["mini"], "batch": [1]}
    plan = plan_throughput(with_options(default_study("speed"), axes, {"repeats": 3} | values))
    measured = {}
    for one, cell in plan.cells:
        starved = (cell.model.arch, cell.context) in starving
        step = cell.context / SPEEDS[cell.model.arch](cell.context)
        measured[one.id(cell)] = Measurement(
            status="out of memory" if starved else "ok",
            step_seconds=[] if starved else [step / 0.95, step, step / 1.04],
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
"""Factor of the law's coefficients, and FLOPs a token and parameter at T = 512."""
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
"""Of the true law in bits a byte."""


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
    k = ARCHS[arch][1] * (1 if arch == "transformer_vq" else 1.125)
    sizes = np.geomspace(5e3, 5e7, 400)
    return sizes[np.argmin(true_loss(arch, sizes, budget / (k * sizes)))], k


def isoflop_runs():
    """Sizes around the optimum at every budget, three seeds at the smallest; context and codebook designs."""
    for arch in ARCHS:
        for budget in BUDGETS:
            best, _ = best_size(arch, budget)
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


def around(value, share):
    """An estimate with intervals of a share to either side."""
    ends = {
        f"{side}{level}": value * (1 + sign * factor * share)
        for level, factor in ((90, 1.0), (95, 1.3))
        for side, sign in (("low", -1), ("high", 1))
    }
    return Estimate(value=value, interval=Interval(**ends))


def made_frontier(arch, cost):
    optima = []
    for budget in (*BUDGETS, 5e13):
        best, k = best_size(arch, budget)
        loss, beyond = true_loss(arch, best, budget / (k * best)), budget / BUDGETS[-1]
        spread = 0.05 + 0.05 * max(np.log10(beyond), 0)
        optima.append(
            Optimum(
                flops=budget,
                parameters=around(best, 2 * spread),
                tokens=around(budget / k / best, 2 * spread),
                loss=around(loss, 0.1 * spread),
                tokens_per_parameter=around(budget / k / best**2, 3 * spread),
                parameters_low=best / 2.5,
                parameters_high=best * 2.5,
                beyond=beyond,
            )
        )
    a = BETA / (ALPHA + BETA)
    return Frontier(
        cost=cost,
        words="from the runs' own FLOPs",
        a=around(a, 0.06),
        b=around(1 - a, 0.06),
        optima=optima,
        refused={"5e+15": "more than two decades beyond the data"},
    )


def made_points(runs, bias=0.0):
    return [
        Point(
            name=run.name,
            x=[run.parameters_non_embedding, run.tokens],
            flops=run.flops,
            measured=run.bpb,
            predicted=(law := true_loss(run.arch, run.parameters_non_embedding, run.tokens) * (1 + bias)),
            residual=float(np.log(law / run.bpb)),
        )
        for run in runs
    ]


def made_holdout(runs):
    held = [run for run in runs if run.flops > 0.9 * BUDGETS[-1]]
    windows = [
        Window(
            fitted_to=budget,
            fitted_runs=5 * place + 15,
            predicted_runs=5 * (4 - place),
            mean_relative_error=None if place == 0 else 0.02 / (place + 1),
            baselines={"last value": 0.06 - 0.01 * place, "power law": None if place == 0 else 0.02},
            exponents={"a": 0.5 + 0.01 * place},
            reason="5 sizes at one budget" if place == 0 else None,
        )
        for place, budget in enumerate(BUDGETS[:-1])
    ]
    return HoldOut(
        description=f"the {len(held)} runs at the largest budget",
        fitted_runs=len(runs) - len(held),
        points=made_points(held, 0.006),
        mean_relative_error=0.0061,
        r2=0.93,
        baselines={"last value": 0.034, "power law": 0.009},
        windows=windows,
    )


def made_fit(arch, runs):
    values = {"E": E, "A": ARCHS[arch][0] * A, "alpha": ALPHA, "B": ARCHS[arch][0] * B, "beta": BETA}
    a = BETA / (ALPHA + BETA)
    where = {"arch": arch, "codebook_size": 64 if arch == "transformer_vq" else None, "context": 512}
    return Fit(
        id=f"fit-{arch}",
        law="chinchilla",
        form="L = E + A N^-alpha + B D^-beta",
        terms=[],
        where=where,
        label=f"{arch}, T 512" + (", S 64" if arch == "transformer_vq" else ""),
        axes=["parameters_non_embedding", "tokens"],
        letters=["N", "D"],
        convention=Convention(),
        metric="bpb",
        unit="bits a byte",
        parameters=values,
        derived={"a": a, "b": 1 - a},
        intervals={name: around(value, 0.1).interval for name, value in (values | {"a": a}).items()},
        status="converged",
        objective=2e-3,
        method=Method(
            solver="variable projection",
            objective="sum of Huber losses of log residuals",
            residual="log",
            delta=1e-3,
            starts=25,
            starts_agreeing=24,
            tolerance=1e-15,
            decrease_in_reach=1e-12,
            condition=4e3,
            cross_check=CrossCheck(
                solver="L-BFGS-B", starts=25, starts_agreeing=20, objective=2e-3, relative_difference=1e-9
            ),
        ),
        n_runs=len(runs),
        points=made_points(runs),
        curves=[],
        influences=[Influence(name=run.name, changes={"alpha": 0.02, "a": -0.004}) for run in runs[:8]],
        variants=[
            Variant(
                kind="convention",
                words="N with embeddings",
                n_runs=len(runs),
                parameters=values | {"alpha": 0.4},
                derived={"a": 0.49},
                reason=None,
            ),
            Variant(
                kind="runs",
                words="without the smallest budget",
                n_runs=len(runs) - 15,
                parameters={},
                derived={},
                reason="beta left 0.001..4",
            ),
        ],
        frontiers=[made_frontier(arch, "exact"), made_frontier(arch, "6nd")],
        r2_fit=0.996,
        r2_holdout=0.93,
        holdout=made_holdout(runs),
        bootstrap=1000,
        bootstrap_seed=0,
        bootstrap_on_bound=0,
        selection="all finished runs",
        warnings=[],
        data_hash="f" * 64,
        versions={"scipy": "1.17.0"},
    )


def made_isoflop(fit, runs):
    rows = []
    for budget in BUDGETS:
        mine = [run for run in runs if abs(np.log(run.flops / budget)) < 0.1]
        curve = np.polyfit(np.log([run.parameters_non_embedding for run in mine]), [run.bpb for run in mine], 2)
        vertex = float(np.exp(-curve[1] / 2 / curve[0]))
        points = [
            point.model_copy(update={"predicted": float(np.polyval(curve, np.log(point.x[0])))})
            for point in made_points(mine)
        ]
        inside = curve[0] > 0 and min(p.x[0] for p in points) < vertex < max(p.x[0] for p in points)
        rows.append(
            IsoflopRow(
                budget=budget,
                points=points,
                parameters=vertex if inside else None,
                tokens=budget / vertex / 8 if inside else None,
                loss=float(np.polyval(curve, np.log(vertex))) if inside else None,
                reason=None if inside else "the vertex lies outside the runs",
            )
        )
    return Isoflop(where=fit.where, label=fit.label, rows=rows, a=around(0.51, 0.1), b=around(0.49, 0.1), reason=None)


def made_comparison(fit, base):
    kinds = (("compute", 1, "FLOPs", 1.3), ("time", 1.8e10, "s", 0.9), ("money", 1e12, "USD", 1.0))
    difference = Estimate(value=0.02, interval=Interval(low90=0.01, high90=0.03, low95=0, high95=0.04))
    points = [
        ComparedPoint(
            kind=kind,
            budget=budget / scale,
            unit=unit,
            loss=around(2.3, 0.004),
            base_loss=around(2.28, 0.004),
            difference=difference,
            multiplier=None if kind == "money" else around(factor, 0.1),
            reason="the price is the same" if kind == "money" else None,
            beyond=budget / BUDGETS[-1],
        )
        for kind, scale, unit, factor in kinds
        for budget in (*BUDGETS, 5e13)
    ]
    return Comparison(
        where=fit.where, base=base.where, label=fit.label, base_label=base.label, points=points, reason=None
    )


@pytest.fixture(scope="session")
def made_fits(isoflop_results):
    """What the fitter would say of the study, made from the law that it was made with."""
    runs = {
        arch: [
            run
            for run in isoflop_results
            if run.arch == arch and run.context == 512 and run.bpb and run.codebook_size in (None, 64)
        ]
        for arch in ARCHS
    }
    fits = [made_fit(arch, runs[arch]) for arch in ARCHS]
    candidates = [
        Candidate(
            law=law,
            form="L = E + ...",
            limits="S to infinity: no codebook",
            n_runs=40,
            held_out_error=error,
            reason=None,
        )
        for law, error in (("additive", 0.011), ("scaled", 0.008))
    ]
    return StudyFits(
        fits=fits,
        refusals=[
            Refusal(
                law="codebook",
                where={},
                label="transformer_vq, T 512",
                n_runs=3,
                kind="too few runs",
                reason="3 usable runs; L = E + A S^-alpha needs at least 4",
            )
        ],
        isoflops=[made_isoflop(fit, runs[str(fit.where["arch"])]) for fit in fits],
        comparisons=[made_comparison(fits[0], base) for base in fits[1:]],
        selections=[
            Selection(
                where={},
                label="transformer_vq",
                candidates=candidates,
                chosen="scaled",
                words="scaled predicts the held-out runs best.",
            )
        ],
    )
