"""vqscale: scaling-law studies of linear-time, vector-quantised transformers on a Ray cluster.

The public Python API, loaded when it is used: `load_study`, `plan`, `run`, `fit`, `predict`, `report`,
`load_model`, and the types that they take and return.
"""

from typing import TYPE_CHECKING, Any

from vqscale import errors
from vqscale.version import __version__

if TYPE_CHECKING:
    from vqscale.api import (
        Fit,
        FitOptions,
        FitRun,
        Plan,
        PlannedTrial,
        Predicted,
        Result,
        RunEvents,
        Study,
        StudyFits,
        StudyRun,
        fit,
        load_model,
        load_study,
        plan,
        predict,
        report,
        run,
    )
    from vqscale.inference.load import LoadedModel
    from vqscale.inference.score import TextScore

__all__ = [
    "Fit",
    "FitOptions",
    "FitRun",
    "LoadedModel",
    "Plan",
    "PlannedTrial",
    "Predicted",
    "Result",
    "RunEvents",
    "Study",
    "StudyFits",
    "StudyRun",
    "TextScore",
    "__version__",
    "errors",
    "fit",
    "load_model",
    "load_study",
    "plan",
    "predict",
    "report",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "LoadedModel":
        from vqscale.inference.load import LoadedModel

        return LoadedModel
    if name == "TextScore":
        from vqscale.inference.score import TextScore

        return TextScore
    if name in __all__:
        from vqscale import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
