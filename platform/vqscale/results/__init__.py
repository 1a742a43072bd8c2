"""The record of a trial and the table of a study."""

from vqscale.results.locate import Target, locate
from vqscale.results.record import PositionLoss, Result, Status
from vqscale.results.table import read_table, to_results, write_table

__all__ = ["PositionLoss", "Result", "Status", "Target", "locate", "read_table", "to_results", "write_table"]
