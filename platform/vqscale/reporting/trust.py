"""Whether a law may be used: the one place that decides it, for figures, summary and sentences alike."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vqscale.formatting import percent
from vqscale.laws import Fit, StudyFits
from vqscale.laws.decisions.surface import leading_fits
from vqscale.laws.io.schema import Where


@dataclass(frozen=True, kw_only=True)
class Trust:
    """`marks`: reasons not to decide by the law at all; `doubts`: reasons not to use it beyond its runs."""

    marks: Sequence[str]
    doubts: Sequence[str]

    @property
    def usable(self) -> bool:
        return not self.marks

    @property
    def extrapolates(self) -> bool:
        """Whether anything beyond the runs may be taken from it."""
        return not self.marks and not self.doubts

    @property
    def reasons(self) -> list[str]:
        return [*self.marks, *self.doubts]


def trust(fit: Fit) -> Trust:
    return Trust(marks=fit.marks, doubts=list(_doubts(fit)))


def trust_of_all(fits: Iterable[Fit]) -> Trust:
    """Of something that rests on several laws."""
    found = [trust(fit) for fit in fits]
    return Trust(
        marks=list(dict.fromkeys(mark for one in found for mark in one.marks)),
        doubts=list(dict.fromkeys(doubt for one in found for doubt in one.doubts)),
    )


def laws_behind(fits: StudyFits, *subsets: Where) -> list[Fit]:
    """The laws in N and D of subsets that were compared, as comparisons take them."""
    return [fit for fit in leading_fits(fits.fits) if fit.where in subsets]


def _doubts(fit: Fit) -> Iterator[str]:
    """One baseline that predicts the held-out runs at least as well is enough: the fit's own mark asks for both."""
    own = fit.holdout.mean_relative_error
    if own is None or fit.marks:
        return
    for name, error in fit.holdout.baselines.items():
        if error is not None and error <= own:
            off = percent(error, 2)
            yield f'the baseline "{name}" was off by {off} on the held-out runs, the law by {percent(own, 2)}'
