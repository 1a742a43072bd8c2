"""What a study's file says of its fit."""

from typing import Any

import pandas as pd

from vqscale.laws.decisions.compare import Price
from vqscale.study.spec import Study

FURTHER = 10.0
"""An optimum is also given at this many times the largest budget of a study: what comes next."""


def study_settings(study: Study | None, table: pd.DataFrame, hold_out_from: float | None = None) -> dict[str, Any]:
    """What a study's file says of its fit: runs held out by design, budgets of its decisions, the price of a device."""
    if study is None:
        return {"hold_out_from": hold_out_from}
    budgets = [*study.budgets, FURTHER * study.budgets[-1]] if study.budgets else None
    held = hold_out_from or designed_hold_out(study, table)
    return {"hold_out_from": held, "budgets": budgets, "price": price_of(study)}


def designed_hold_out(study: Study, table: pd.DataFrame) -> float | None:
    """Training FLOPs from which the study's designs hold runs out; None where none does."""
    if not study.design:
        return None
    n, tokens = table["parameters_non_embedding"], table["tokens"]
    return study.hold_out_from_runs(zip(table["preset"], tokens / n, table["flops"], strict=True))


def price_of(study: Study) -> Price | None:
    """The price in the study's resources; None where none is stated."""
    price = study.resources.price_per_device_hour
    return None if price is None else Price(per_device_hour=price, currency=study.resources.currency)
