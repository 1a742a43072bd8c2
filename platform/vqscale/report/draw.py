"""Writing one figure. Drawn on matplotlib's own canvas: no global state, no display."""

import io
from collections.abc import Callable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vqscale import storage


def write_figure(
    folder: str, name: str, draw: Callable[[Axes], None], formats: Sequence[str] = ("png",), rests_on: str = ""
) -> list[str]:
    """Write `folder`/figures/`name` in every format; returns the URIs.

    `rests_on`: kept as the file's `Description`, in the metadata of PNG and SVG.
    """
    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    written = []
    for suffix in formats:
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(buffer, format=suffix, metadata=_metadata(suffix, rests_on))
        written.append(storage.join(folder, "figures", f"{name}.{suffix}"))
        storage.write_bytes(written[-1], buffer.getvalue())
    return written


def _metadata(suffix: str, rests_on: str) -> dict[str, str | None]:
    """The same file for the same figure: no date."""
    values: dict[str, str | None] = {"Description": rests_on} if rests_on else {}
    return values | ({"Date": None} if suffix == "svg" else {})
