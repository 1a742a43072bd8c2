"""Scaling laws: forms, fits with intervals and hold-out, refusals with reasons. Only numpy, scipy and tables."""

from vqscale.laws.export import read_fits, write_fits
from vqscale.laws.forms import LAWS
from vqscale.laws.record import Exclusion, Fit, Interval, Refusal, StudyFits
from vqscale.laws.study import fit_study

__all__ = ["LAWS", "Exclusion", "Fit", "Interval", "Refusal", "StudyFits", "fit_study", "read_fits", "write_fits"]
