"""A throughput table in sentences: each linear-time architecture against the baselines, from its numbers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.reporting.charts.style import architecture, number, plural, present, whole
from vqscale.reporting.claims.claim import fig, named, plain
from vqscale.throughput.crossover import Crossover
from vqscale.throughput.measurement import OK, describe_code
from vqscale.throughput.spread import LEVEL
from vqscale.throughput.table import BASELINES, COMPARISON_COLUMNS, CURVE_COLUMNS, LINEAR, crossovers

_Row = dict[str, Any]
_DESCRIPTIONS = {
    "transformer_full": "is Transformer-VQ with attention over all un-quantised keys, and a position bias over them",
    "transformer": "is the practitioner's (pre-norm RMSNorm, rotary positions, SwiGLU, flash attention)",
    "longvq": "is a reconstruction of LongVQ: gated attention over quantised keys beside a structured memory",
    "mega": "is LongVQ with attention over all un-quantised keys",
    "gla": "is a linear recurrence with gates per channel",
    "transformer_window": "is the Transformer with a sliding window",
}


@dataclass(frozen=True, kw_only=True)
class SpeedComparison:
    """One curve of a linear-time architecture over T against the baselines that were timed beside it."""

    arch: str
    label: str
    """Settings that distinguish it from other curves of its architecture; empty where it is the only one."""
    own: dict[int, _Row]
    """By T, as `others`."""
    others: dict[str, dict[int, _Row]]
    """By baseline."""
    break_even: dict[str, Crossover]
    """By baseline; without those that it was never timed beside."""

    @property
    def contexts(self) -> list[int]:
        """Every T at which the curve or a baseline of it was tried."""
        return sorted({*self.own, *(context for rows in self.others.values() for context in rows)})

    @property
    def longest(self) -> int:
        """The longest T at which it ran beside a baseline; where there is none, the longest at all."""
        both = [context for baseline in self.others for context in self._both(baseline)]
        return max(both or self.contexts)

    def at(self, context: int) -> list[str]:
        """Result at one T: one sentence per baseline, one for all where the curve itself has no speed."""
        return [plain(text) for text in self.marked_at(context)]

    def marked_at(self, context: int) -> list[str]:
        """As `at`, with the numbers as figures of a claim."""
        prefix = f"{named(self.label)}: at" if self.label else "At"
        found = [
            f"{prefix} T = {named(whole(context))} {self._sentence(baseline, context)}." for baseline in self.others
        ]
        return list(dict.fromkeys(found))

    def marked_even(self, baseline: str) -> str:
        return _even(self.break_even[baseline], self.arch, baseline)

    @property
    def caveats(self) -> list[str]:
        """What would weaken a sentence about this curve."""
        rows = [row for row in self.own.values() if row["status"] == OK]
        found = [] if all(row["device_kind"] != "cpu" for row in rows) else ["measured on a CPU"]
        return found + ([spread_note(rows)] if rows else [])

    def _both(self, baseline: str) -> list[int]:
        return [context for context, row in self.own.items() if present(row[f"ratio_to_{baseline}"])]

    def _sentence(self, baseline: str, context: int) -> str:
        own, other = self.own.get(context), self.others[baseline].get(context)
        name, base = named(architecture(self.arch)), named(architecture(baseline))
        if own is None or own["status"] != OK:
            return f"{name} has no speed ({named(_why(own))})"
        if other is None or other["status"] != OK:
            speed = own["tokens_per_second"]
            shown = fig(
                speed, _amount(speed), f"tokens per second of {plain(name)} in training at T = {whole(context)}"
            )
            why = named(_why(other))
            return f"{name} trains on {shown} tokens per second, and {base} has no speed to compare with ({why})"
        ratio, low, high = (own[f"ratio_to_{baseline}{end}"] for end in ("", "_low", "_high"))
        what = f"training speed of {plain(name)} over {plain(base)} at T = {whole(context)}"
        middle = fig(ratio, number(ratio, 3), what)
        ends = [
            fig(end, number(end, 3), f"{what}: {side} end of its interval")
            for end, side in ((low, "lower"), (high, "upper"))
        ]
        parts = [f"{name} trains {middle} x [{ends[0]}, {ends[1]}] as fast as {base}"]
        if baseline in self.break_even:
            parts.append(self.marked_even(baseline))
        return "; ".join([*parts, *_cost(own, other), *_energy(own, other), *_memory(own, other, plain(base))])


def speed_comparisons(table: pd.DataFrame) -> list[SpeedComparison]:
    """One for every curve of a linear-time architecture that was measured or tried."""
    tried = table[table["cell_id"].notna()]
    curves = list(
        tried[tried["arch"].isin(LINEAR)].groupby([*COMPARISON_COLUMNS, *CURVE_COLUMNS], dropna=False, sort=False)
    )
    firsts = [rows.iloc[0] for _, rows in curves]
    evens = crossovers(table)
    found = []
    for _, rows in curves:
        first = rows.iloc[0]
        company = _matching(tried, first, COMPARISON_COLUMNS)
        others = {baseline: _by_context(_baseline_rows(company, first, baseline)) for baseline in BASELINES}
        own_evens = _matching(evens, first, [*COMPARISON_COLUMNS, *CURVE_COLUMNS]).to_dict("records")
        found.append(
            SpeedComparison(
                arch=str(first["arch"]),
                label=settings_label(first, [one for one in firsts if one["arch"] == first["arch"]]),
                own=_by_context(rows),
                others={baseline: known for baseline, known in others.items() if known},
                break_even={str(row["baseline"]): row["crossover"] for row in own_evens},
            )
        )
    return found


def break_evens(table: pd.DataFrame) -> list[str]:
    """Break-even of every linear-time curve with every baseline."""
    found = speed_comparisons(table)
    several = len({one.arch for one in found}) > 1
    names = [", ".join(filter(None, (architecture(one.arch) if several else "", one.label))) for one in found]
    return [
        f"{f'{name}: ' if name else ''}{text[0].upper()}{text[1:]} against {architecture(baseline)}."
        for name, one in zip(names, found, strict=True)
        for baseline in one.break_even
        if (text := plain(one.marked_even(baseline)))
    ]


def settings_label(row: "pd.Series[Any]", among: "list[pd.Series[Any]]") -> str:
    """The settings of a row in which rows differ, as text."""
    settings = (*COMPARISON_COLUMNS, *CURVE_COLUMNS[1:])
    differing = [name for name in settings if len({str(one[name]) for one in among}) > 1]
    names = {"codebook_size": "S = ", "block_length": "L = ", "device_kind": ""}
    return ", ".join(f"{names.get(name, '')}{_plain(row[name])}" for name in differing if present(row[name]))


def curve_name(row: "pd.Series[Any]", among: "list[pd.Series[Any]]") -> str:
    """The architecture of a row, and the settings that distinguish it from other rows of that architecture."""
    own = settings_label(row, [one for one in among if one["arch"] == row["arch"]])
    name = architecture(row["arch"])
    return f"{name} ({own})" if own else name


def filling(rows: pd.DataFrame) -> str:
    """How the steps of rows are filled; where a step holds other than the stated tokens, that too."""
    stated = _joined(rows, "batching")
    by_tokens = rows[rows["batching"].str.endswith("tokens per step")]
    other = by_tokens[by_tokens["batching"].str.split().str[0].astype(int) != by_tokens["tokens_per_step"]]
    if other.empty:
        return stated
    return f"{stated} in whole sequences, at least one sequence (here {_span(by_tokens['tokens_per_step'])} tokens)"


def measurement_provenance(table: pd.DataFrame) -> list[str]:
    """Method, machine and versions of a measurement, in sentences."""
    ran = table[table["status"] == OK]
    if ran.empty:
        return ["Nothing could be measured."]
    peaks = ran[ran["peak_flops"].notna()]
    sentences = [
        "Measured is the product's own training step (forward, backward, clipping, AdamW, codebooks) on random tokens,"
        f" {filling(ran)}, {_joined(ran, 'precision')}, preset"
        f" {_joined(ran, 'preset')}."
        f" {_architectures(ran)}",
        f"Medians of {_span(ran['repeats'])} repeats that go through all models of one T in turn, after warm-up. A"
        f" ratio is taken within a repeat. {spread_note(ran.to_dict('records'))} Break-even is interpolated between"
        " measured lengths, never extrapolated.",
        f"Machine: {_joined(ran, 'machine')}; device {_joined(ran, 'device')}, {_span(ran['threads'])} CPU thread(s);"
        f" {_versions(ran)}; commit {_joined(ran, 'git') or 'unknown'}; measured {_days(ran)}.",
    ]
    if not peaks.empty:
        shares = ", ".join(
            f"{_reached(rows['peak_flops'])} TFLOP/s in {precision} on {device}"
            for (device, precision), rows in peaks.groupby(["device", "precision"])
        )
        sentences.append(
            f"MFU is the share of the peak that large matrix products reached in the same process: {shares}. Model"
            " FLOPs are counted from the mathematics, without recomputation."
        )
    backends = sorted(set(ran["backend"].dropna()))
    if backends:
        sentences.append(f"VQ attention ran on: {', '.join(backends)}.")
    sources = sorted(set(ran["energy_source"].dropna()))
    sentences.append(
        f"Energy: {'; '.join(sources)}."
        if sources
        else "Energy was not measured: no counter of this device can be read."
    )
    return sentences


def spread_note(rows: Sequence[Mapping[Any, Any]]) -> str:
    """What the intervals of ratios and break-even lengths are made of."""
    counts = [int(row["processes"]) if present(row["processes"]) else 1 for row in rows]
    least = min(counts)
    if least == 1:
        return (
            "[ ] is the lowest and the highest repeat of one process: another process may lie outside it, so that the"
            " interval is not known."
        )
    of = str(least) if least == max(counts) else f"{least} to {max(counts)}"
    return (
        f"[ ] holds a second measurement in {LEVEL:.0%} of cases: by t with {plural(least - 1, 'degree')} of freedom"
        f" from the spread between {of} processes, and all repeats."
    )


def _architectures(ran: pd.DataFrame) -> str:
    there = [f"{architecture(arch)} {text}" for arch, text in _DESCRIPTIONS.items() if (ran["arch"] == arch).any()]
    return f"{'; '.join(there)}. All have equal parameters." if there else ""


def measurement_warnings(table: pd.DataFrame) -> list[str]:
    """Limits of what follows from the table."""
    ran = table[table["status"] == OK]
    found = []
    if (ran["device_kind"] == "cpu").any():
        found.append("These are CPU figures: nothing follows for a GPU, where kernels, memory and break-even differ.")
    if (ran["repeats"] < 3).any():
        found.append(_few_repeats(ran))
    if (ran["processes"].fillna(1) < 2).any():
        found.append(
            "Measured by one process: ratios and break-even lengths have no interval that another process would keep."
            " Use `processes: 3` or more."
        )
    codes = measured_codes(ran)
    if len(codes) > 1:
        found.append(
            f"These rows were measured with different code: {'; '.join(codes)}. Differences along a curve may come from"
            " that (ratios are within one code); --again measures all of them again."
        )
    return found


def measured_codes(rows: pd.DataFrame) -> list[str]:
    """The codes that rows were measured with: commit and versions, each once."""
    known = zip(rows["git"], rows["versions"], strict=True)
    return list(dict.fromkeys(describe_code(git if present(git) else None, versions) for git, versions in known))


def _few_repeats(ran: pd.DataFrame) -> str:
    """All cells of a study ask for equally many repeats: those with fewer than others were cut short."""
    few = ran[ran["repeats"] < 3]
    cut = int((few["repeats"] < ran["repeats"].max()).sum())
    why = f" ({cut} of them because the time limit of a cell cut them short)" if cut else ""
    return f"{len(few)} cell(s) have fewer than 3 repeats{why}: their range is a poor measure of spread."


def _baseline_rows(company: pd.DataFrame, own: "pd.Series[Any]", baseline: str) -> pd.DataFrame:
    """A baseline's rows; of several head types those of the curve's own."""
    rows = company[company["arch"] == baseline]
    same = rows[rows["head"] == own["head"]]
    return rows if same.empty else same


def _by_context(rows: pd.DataFrame) -> dict[int, _Row]:
    return {int(row["context"]): {str(key): value for key, value in row.items()} for row in rows.to_dict("records")}


def _matching(table: pd.DataFrame, row: "pd.Series[Any]", names: list[str]) -> pd.DataFrame:
    for name in names:
        table = table[table[name] == row[name]] if present(row[name]) else table[table[name].isna()]
    return table


def _why(row: _Row | None) -> str:
    return "not measured" if row is None else str(row["status"])


def _even(even: Crossover, arch: str, baseline: str) -> str:
    what = f"break-even length of {architecture(arch)} with {architecture(baseline)}"
    if isinstance(even.at, str):
        return f"break-even: {named(even)}"
    middle = fig(even.at, f"{even.at:,.0f}", f"{what}, tokens")
    low, high = (
        fig(None if isinstance(end, str) else end, text, f"{what}: {side} end of its interval")
        for end, text, side in zip((even.low, even.high), even.ends, ("lower", "upper"), strict=True)
    )
    return f"break-even at T = {middle} [{low}, {high}]"


def _cost(own: _Row, other: _Row) -> list[str]:
    if not present(own["cost_per_billion_tokens"]):
        return []
    costs = [
        fig(
            row["cost_per_billion_tokens"],
            _amount(row["cost_per_billion_tokens"]),
            f"{own['currency']} for a billion training tokens of {architecture(row['arch'])}"
            f" at T = {whole(row['context'])}",
        )
        for row in (own, other)
    ]
    price = fig(own["price_per_device_hour"], _amount(own["price_per_device_hour"]), "price of a device-hour, stated")
    unit = named(own["currency"])
    return [f"a billion tokens cost {costs[0]} {unit} against {costs[1]} at {price} {unit} per device-hour"]


def _energy(own: _Row, other: _Row) -> list[str]:
    name = "energy_kwh_per_billion_tokens"
    if not (present(own[name]) and present(other[name])):
        return []
    shown = [
        fig(row[name], _amount(row[name]), f"kWh for a billion training tokens of {architecture(row['arch'])}")
        for row in (own, other)
    ]
    return [f"they take {shown[0]} kWh against {shown[1]} ({named(own['energy_source'])})"]


def _memory(own: _Row, other: _Row, baseline: str) -> list[str]:
    if not (present(own["peak_memory_bytes"]) and present(other["peak_memory_bytes"])):
        return []
    share = own["peak_memory_bytes"] / other["peak_memory_bytes"]
    shown = fig(share, number(share, 3), f"peak memory over that of {baseline} at T = {whole(own['context'])}")
    return [f"its peak memory is {shown} x that of {named(baseline)}"]


def _amount(value: float) -> str:
    """Three significant digits, never as a power of ten."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:,.6g}"


def _joined(rows: pd.DataFrame, column: str) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(rows[column].dropna()))


def _span(values: "pd.Series[Any]") -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _reached(flops: "pd.Series[Any]") -> str:
    """In units of 1e12; a range where the cells were measured in several processes."""
    low, high = (number(value / 1e12, 3) for value in (flops.min(), flops.max()))
    return low if low == high else f"{low} to {high}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _versions(rows: pd.DataFrame) -> str:
    shown: dict[str, set[str]] = {}
    for versions in rows["versions"]:
        for name in ("python", "torch", "triton", "vqscale"):
            if name in versions:
                shown.setdefault(name, set()).add(versions[name])
    return ", ".join(f"{name} {'/'.join(sorted(values))}" for name, values in shown.items())


def _days(rows: pd.DataFrame) -> str:
    days = sorted({str(moment)[:10] for moment in rows["measured_at"]})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
