"""Writing one figure. Drawn on matplotlib's own canvas: no global state, no display."""

import io
from collections.abc import Callable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vqscale import storage


def write_figure(folder: str, name: str, draw: Callable[[Axes], None], formats: Sequence[str] = ("png",)) -> list[str]:
    """Write `folder`/figures/`name` in every format; returns the URIs."""
    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    written = []
    for suffix in formats:
        buffer = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(buffer, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
        written.append(storage.join(folder, "figures", f"{name}.{suffix}"))
        storage.write_bytes(written[-1], buffer.getvalue())
    return written
