"""The record of a trial and the table of a study."""

from vqscale.results.locate import Target, locate
from vqscale.results.result import AccuracyBucket, PositionLoss, Result, Status
from vqscale.results.table import convert_table, read_table, to_results, write_table

__all__ = [
    "AccuracyBucket",
    "PositionLoss",
    "Result",
    "Status",
    "Target",
    "convert_table",
    "locate",
    "read_table",
    "to_results",
    "write_table",
]
