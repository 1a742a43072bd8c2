"""Measured speed against quadratic attention."""

import pandas as pd

from vqscale.report import tables
from vqscale.report.report_data import Material
from vqscale.report.section import Section, Speed
from vqscale.report.throughput.decision import break_evens, decisions, provenance, warnings
from vqscale.report.throughput.panels import panels


def section(material: Material) -> Section | None:
    if material.throughput is None:
        return None
    blocks = [speed_block(material.throughput)]
    return Section(id="speed", title="Speed against quadratic attention", nav="Speed", blocks=blocks)


def speed_block(throughput: pd.DataFrame) -> Speed:
    """What the section on speed shows of a throughput table."""
    values = {
        "decisions": decisions(throughput),
        "break_evens": break_evens(throughput),
        "cells": tables.throughput(throughput),
        "not_measured": tables.not_measured(throughput),
        "provenance": provenance(throughput),
        "warnings": warnings(throughput),
    }
    return Speed(values=values, panels=panels(throughput))
