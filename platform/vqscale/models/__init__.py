"""Language models and classifiers of every architecture, their presets and their counts."""

from vqscale.models.base import LanguageModel, ModelOutput, ModelState
from vqscale.models.build import build
from vqscale.models.presets import PRESETS, fields_of, resolve

__all__ = ["PRESETS", "LanguageModel", "ModelOutput", "ModelState", "build", "fields_of", "resolve"]
