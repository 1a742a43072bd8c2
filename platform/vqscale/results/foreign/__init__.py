"""Tables of runs that other programs wrote: their cells, columns and units as people write them."""

from vqscale.results.foreign.reading import Runs, TableReading, read_runs

__all__ = ["Runs", "TableReading", "read_runs"]
