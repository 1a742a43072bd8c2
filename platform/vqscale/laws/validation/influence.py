"""What every single run does to a fit: the law refitted without it."""

from collections.abc import Sequence

import numpy as np

from vqscale.laws.fitting.bootstrap import members
from vqscale.laws.fitting.fit import Minimum, refit
from vqscale.laws.fitting.identifiability import determines
from vqscale.laws.fitting.problem import natural
from vqscale.laws.forms.catalogue import Array, Law, derived
from vqscale.laws.io.schema import Influence


def influences(
    law: Law, minimum: Minimum, x_RA: Array, names: Sequence[str], groups: Sequence[str] | None
) -> list[Influence]:
    """Of every run, the largest first; all rows of a run are left out together.

    A run without which the law is not determined has no changes and stands first.
    """
    problem = minimum.problem
    member_R = members(problem.runs, groups)
    weight_BR = (np.arange(member_R.max() + 1)[:, None] != member_R).astype(np.float64)
    enough_B = determines(weight_BR, x_RA)
    values = _answers(law, natural(problem, refit(problem, minimum.theta, weight_BR)))
    whole = _answers(law, minimum.parameters)
    changes = {name: value_B / whole[name] - 1 for name, value_B in values.items()}
    first_row = [int(np.flatnonzero(member_R == run)[0]) for run in range(len(weight_BR))]
    found = [
        Influence(
            name=names[row],
            changes={name: float(change_B[run]) for name, change_B in changes.items()} if enough_B[run] else {},
        )
        for run, row in enumerate(first_row)
    ]
    return sorted(found, key=_size, reverse=True)


def _answers(law: Law, parameters: Array) -> dict[str, Array]:
    """Exponents and derived values; coefficients are nearly unidentified and say nothing."""
    exponents = {name: parameters[..., law.parameters.index(name)] for name in law.exponents}
    return exponents | derived(law, parameters)


def _size(influence: Influence) -> float:
    return max(map(abs, influence.changes.values()), default=np.inf)
