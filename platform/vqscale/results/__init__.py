"""The record of a trial and the table of a study."""

from vqscale.results.locate import Target, locate
from vqscale.results.loss_difference import Difference, loss_difference
from vqscale.results.result import AccuracyBucket, LossParts, PositionLoss, Result, Status
from vqscale.results.table import convert_table, read_table, to_results, write_table

__all__ = [
    "AccuracyBucket",
    "Difference",
    "LossParts",
    "PositionLoss",
    "Result",
    "Status",
    "Target",
    "convert_table",
    "locate",
    "loss_difference",
    "read_table",
    "to_results",
    "write_table",
]
