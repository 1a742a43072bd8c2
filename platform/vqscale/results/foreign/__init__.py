"""Tables of runs that other programs wrote: their cells, columns and units as people write them."""

from vqscale.results.foreign.reader import read_runs
from vqscale.results.foreign.reading import Runs, TableReading

__all__ = ["Runs", "TableReading", "read_runs"]
