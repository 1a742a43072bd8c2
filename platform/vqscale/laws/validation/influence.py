"""Influence of every single run on a fit: the law refitted without it."""

from collections.abc import Sequence

import numpy as np

from vqscale.laws.fitting.bootstrap import run_numbers
from vqscale.laws.fitting.fit import Minimum
from vqscale.laws.fitting.identifiability import determined_without
from vqscale.laws.fitting.leave_out import minima_without
from vqscale.laws.fitting.problem import natural
from vqscale.laws.forms.catalogue import Array, Law, derived
from vqscale.laws.io.schema import Influence


def influences(
    law: Law, minimum: Minimum, x_RA: Array, names: Sequence[str], groups: Sequence[str] | None
) -> list[Influence]:
    """Of every run, the largest first; all rows of a run are left out together.

    A run without which the law is not identified has no changes and comes first.
    """
    problem = minimum.problem
    member_R = run_numbers(problem.runs, groups)
    enough_B = determined_without(law, member_R, x_RA)
    values = _exponents(law, natural(problem, minima_without(problem, minimum.theta, member_R)))
    whole = _exponents(law, minimum.parameters)
    changes = {name: value_B / whole[name] - 1 for name, value_B in values.items()}
    first_row = np.unique(member_R, return_index=True)[1].tolist()
    found = [
        Influence(
            name=names[row],
            changes={name: float(change_B[run]) for name, change_B in changes.items()} if enough_B[run] else {},
        )
        for run, row in enumerate(first_row)
    ]
    return sorted(found, key=_size, reverse=True)


def _exponents(law: Law, parameters: Array) -> dict[str, Array]:
    """Exponents and derived values.

    Coefficients are left out: they are nearly unidentified (standard errors of 26 and 62 % of A and B on Epoch's runs).
    """
    exponents = {name: parameters[..., law.parameters.index(name)] for name in law.exponents}
    return exponents | derived(law, parameters)


def _size(influence: Influence) -> float:
    return max(map(abs, influence.changes.values()), default=np.inf)
