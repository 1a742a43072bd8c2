"""Language models and classifiers of every architecture."""

from vqscale.models.base import LanguageModel, ModelOutput, ModelState
from vqscale.models.build import build

__all__ = ["LanguageModel", "ModelOutput", "ModelState", "build"]
