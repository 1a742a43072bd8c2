"""Measured speed against quadratic attention."""

import pandas as pd

from vqscale.reporting import tables
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Section, SpeedBlock
from vqscale.reporting.throughput.panels import speed_panels
from vqscale.reporting.throughput.speed_comparison import (
    break_evens,
    measurement_provenance,
    measurement_warnings,
    speed_comparisons,
    spread_note,
)
from vqscale.throughput.measurement import OK


def section(data: ReportData) -> Section | None:
    if data.throughput is None:
        return None
    blocks = [speed_block(data.throughput)]
    return Section(id="speed", title="Speed against quadratic attention", nav="Speed", blocks=blocks)


def speed_block(throughput: pd.DataFrame) -> SpeedBlock:
    """The block of the section on speed, of a throughput table."""
    ran = throughput[throughput["status"] == OK].to_dict("records")
    values = {
        "spread": spread_note(ran) if ran else "",
        "comparisons": speed_comparisons(throughput),
        "break_evens": break_evens(throughput),
        "cells": tables.throughput_cell_table(throughput),
        "not_measured": tables.not_measured_table(throughput),
        "provenance": measurement_provenance(throughput),
        "warnings": measurement_warnings(throughput),
    }
    return SpeedBlock(values=values, panels=speed_panels(throughput))
