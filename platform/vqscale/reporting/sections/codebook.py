"""Codebooks: the effect of S at equal compute and at equal tokens, and how many codes are in use."""

from vqscale.reporting import tables
from vqscale.reporting.charts.panel import Axis, Panel, PointsLayer
from vqscale.reporting.charts.style import GREY, architecture, number, whole
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Prose, Section, TableBlock
from vqscale.reporting.sections.runs import LONG
from vqscale.reporting.sections.varied import group_table, noise_sentence, over_panels

_USE = "Codes in use are exp(entropy) of their usage, mean over layers, at the end of training."


def section(data: ReportData) -> Section | None:
    panels = over_panels(data, "codebook_size", "codebook size S", "codebook")
    if use := _use_panel(data):
        panels.append(use)
    blocks: list[Block] = []
    if panels:
        blocks = [Prose(text=f"{noise_sentence(data)} {_USE}"), Charts(panels=panels)]
    if compared := group_table(data, "codebook_size", "S"):
        rows = len(compared.rows)
        blocks.append(TableBlock(table=compared, fold=f"Losses of all {rows} comparisons" if rows > LONG else ""))
    if health := tables.codebook_table(data.runs):
        rows = len(health.rows)
        blocks.append(TableBlock(table=health, fold=f"Codebooks of {rows} runs" if rows > LONG else ""))
    return Section(id="codebook", title="Codebooks", nav="Codebook", blocks=blocks) if blocks else None


def _use_panel(data: ReportData) -> Panel | None:
    """Codes in use over S, beside the line on which all are."""
    runs = data.runs
    if not {"codebook_size", "code_perplexity", "arch"} <= set(runs.columns):
        return None
    runs = runs[runs["codebook_size"].notna() & runs["code_perplexity"].notna()]
    sizes = sorted(float(size) for size in runs["codebook_size"].unique())
    if len(sizes) < 2:
        return None
    ends = [sizes[0], sizes[-1]]
    every = PointsLayer(label="all codes equally", shade=GREY, joined=True, size=1, x=ends, y=ends)
    layers = [
        PointsLayer(
            label=architecture(arch),
            shade=data.scheme.colour(arch),
            symbol=data.scheme.symbol(arch),
            size=7,
            x=rows["codebook_size"].astype(float).tolist(),
            y=rows["code_perplexity"].tolist(),
            texts=[
                f"{name}<br>S {whole(size)}: {number(used, 3)} in use"
                for name, size, used in zip(rows["name"], rows["codebook_size"], rows["code_perplexity"], strict=True)
            ],
        )
        for arch, rows in runs.groupby("arch")
    ]
    return Panel(
        name="codes_in_use",
        title="Codes in use over codebook size",
        tab="codes in use",
        x=Axis(name="codebook size S", log=True, ticks=[(size, whole(size)) for size in sizes]),
        y=Axis(name="codes in use", log=True),
        layers=[every, *layers],
    )
