"""Scaling laws: forms, fits with intervals and hold-out, refusals with reasons. Only numpy, scipy and tables."""

from vqscale.laws.forms.catalogue import LAWS
from vqscale.laws.io.export import read_fits, write_fits
from vqscale.laws.io.schema import Exclusion, Fit, Interval, Refusal, StudyFits
from vqscale.laws.study_fits import fit_study

__all__ = ["LAWS", "Exclusion", "Fit", "Interval", "Refusal", "StudyFits", "fit_study", "read_fits", "write_fits"]
