"""The first half page: plain sentences, every one made from the numbers of this study and from nothing else."""

import pandas as pd

from vqscale.laws import Fit, StudyFits
from vqscale.laws.study import default_metric
from vqscale.report.compare import Pairs, against_baselines, finished, over_codebooks
from vqscale.report.references import References, levels
from vqscale.report.style import architecture, count, duration, number, percent
from vqscale.report.throughput import decisions

_UNITS = {"bpb": "bits a byte", "loss": "nats a token"}


def summarise(
    table: pd.DataFrame,
    fits: StudyFits,
    references: References | None,
    throughput: pd.DataFrame | None,
) -> list[str]:
    """What was found, how sure it is, what it cost. What was not measured is not mentioned."""
    metric = default_metric(table)
    sentences = [_best(table, metric, references)]
    sentences += [_law(fit) for fit in _leading(fits.fits, "power_n")]
    sentences += [_allocation(fit) for fit in _leading(fits.fits, "chinchilla")]
    sentences += [_against(pairs) for pairs in against_baselines(table, metric)]
    sentences.append(_codebooks(over_codebooks(table, metric)))
    sentences += _speed(throughput) if throughput is not None else []
    sentences.append(_doubt(fits))
    sentences.append(_cost(table))
    return [sentence for sentence in sentences if sentence]


def _best(table: pd.DataFrame, metric: str, references: References | None) -> str:
    runs = finished(table)
    runs = runs[runs[metric].notna()]
    if runs.empty:
        return "No run has finished with a held-out loss, so nothing can be concluded yet."
    best = runs.sort_values(metric).iloc[0]
    who = str(best["name"]) if "name" in runs else f"row {best.name}"
    reached = f"{number(best[metric])} {_UNITS[metric]} on held-out text"
    text = f"The best of {len(runs)} finished runs, {who}, reaches {reached}"
    if metric != "bpb":
        return text + "."
    return "; ".join([text, *_beside(float(best[metric]), levels(references, best.get("corpus_fingerprint")))]) + "."


def _beside(bpb: float, known: dict[str, float]) -> list[str]:
    found = []
    for name, level in known.items():
        change = bpb / level - 1
        found.append(f"{percent(abs(change))} {'below' if change < 0 else 'above'} {name} ({number(level)})")
    return found


def _leading(fits: list[Fit], law: str) -> list[Fit]:
    """The fit with the most runs of every architecture."""
    chosen: dict[str, Fit] = {}
    for fit in fits:
        arch = str(fit.where.get("arch", ""))
        if fit.law == law and (arch not in chosen or fit.n_runs > chosen[arch].n_runs):
            chosen[arch] = fit
    return list(chosen.values())


def _law(fit: Fit) -> str:
    largest = max(fit.points, key=lambda point: point.x[0])
    exponent = fit.parameters["alpha"]
    gain = (largest.predicted - fit.parameters["E"]) * (1 - 2**-exponent) / largest.predicted
    return (
        f"{_subset(fit)}: doubling the largest model ({count(largest.x[0])} parameters) would lower the loss by "
        f"{percent(gain)}, if the law L = E + A N^-{number(exponent, 3)} holds{_range(fit, 'alpha')}{_predicted(fit)}"
    )


def _allocation(fit: Fit) -> str:
    size = f"C^{number(fit.derived['a'], 3)}{_range(fit, 'a')}"
    text = f"C^{number(fit.derived['b'], 3)}"
    return (
        f"{_subset(fit)}: with compute C, the best size grows as {size}, the training text as {text}{_predicted(fit)}"
    )


def _subset(fit: Fit) -> str:
    arch = fit.where.get("arch")
    return fit.label.replace(str(arch), architecture(arch), 1) if arch else fit.label.capitalize()


def _range(fit: Fit, name: str) -> str:
    found = fit.intervals.get(name)
    return f" (90 % interval of the exponent: {number(found.low90, 3)} to {number(found.high90, 3)})" if found else ""


def _predicted(fit: Fit) -> str:
    error = fit.holdout.mean_relative_error
    if error is None:
        return "; there were too few runs to test a prediction."
    runs = len(fit.holdout.points)
    target = "largest run" if runs == 1 else f"{runs} largest runs"
    return f"; fitted to the smaller runs only, it was {percent(error, 2)} off on the {target}."


def _plural(number_of: int, noun: str) -> str:
    return f"one {noun}" if number_of == 1 else f"{number_of} {noun}s"


def _against(pairs: Pairs) -> str:
    side = "higher" if pairs.mean > 0 else "lower"
    spread = f"{percent(min(pairs.differences))} to {percent(max(pairs.differences))}"
    return (
        f"At equal size, context, training text and seed, {architecture(pairs.first)}'s loss is "
        f"{percent(abs(pairs.mean))} {side} than that of {architecture(pairs.second)} "
        f"({_plural(len(pairs.differences), 'pair')}{', ' + spread if len(pairs.differences) > 1 else ''})."
    )


def _codebooks(pairs: Pairs | None) -> str:
    if pairs is None:
        return ""
    side = "raises" if pairs.mean > 0 else "lowers"
    return (
        f"A codebook of {pairs.first} instead of {pairs.second} codes {side} the loss by {percent(abs(pairs.mean), 2)} "
        f"({_plural(len(pairs.differences), 'pair')})."
    )


def _speed(throughput: pd.DataFrame) -> list[str]:
    """Every VQ curve at the longest context at which a baseline ran beside it."""
    return [sentence for one in decisions(throughput) for sentence in one.at(one.longest)]


def _doubt(fits: StudyFits) -> str:
    rough = sum(bool(fit.warnings) for fit in fits.fits)
    parts = []
    if rough:
        parts.append(
            f"{rough} of {len(fits.fits)} fits rest on few runs or uncertain refits: read their intervals as rough"
        )
    against = [one for one in fits.refusals if one.kind == "not supported"]
    if against:
        parts.append(
            f"in {_plural(len(against), 'subset')} the runs do not follow the form, and no law is given for them"
        )
    return ("; ".join(parts) + ".").capitalize() if parts else ""


def _cost(table: pd.DataFrame) -> str:
    if "status" not in table or "flops" not in table:
        return ""
    failed = table[table["status"].isin(["failed", "diverged"])]
    own, runs = _own_share(table), finished(table)
    flops = float((runs["flops"] * own[runs.index]).sum())
    parts = [f"The study's {len(table)} runs cost {number(flops, 3)} training FLOPs"]
    if (own < 1).any():
        parts[0] += ", with updates that horizons share counted once"
    if {"seconds_training", "seconds_overhead"} <= set(table):
        training, overhead = (table["seconds_training"] * own).sum(), table["seconds_overhead"].sum()
        parts.append(f"{duration(training)} of training and {duration(overhead)} of overhead")
    if len(failed):
        parts.append(f"{len(failed)} of them failed or diverged")
    return ", ".join(parts) + "."


def _own_share(table: pd.DataFrame) -> "pd.Series[float]":
    """Of every run the share of its updates that it trained itself."""
    if not {"shared_steps", "steps"} <= set(table):
        return pd.Series(1.0, index=table.index)
    return 1 - table["shared_steps"] / table["steps"]
