"""Figures and the HTML page of a study or a table, from what lies in its folder."""

from vqscale import storage
from vqscale.laws import StudyFits, read_fits
from vqscale.reporting import ReportData, gather, write_figures, write_report
from vqscale.results import Target, locate
from vqscale.study.spec import Study
from vqscale.sweep.events import StudyEvents
from vqscale.throughput.table import stored_throughput_table
from vqscale.workflow.artifacts import mirror
from vqscale.workflow.tables import fitted_table
from vqscale.workflow.text_references import read_references
from vqscale.workflow.throughput_pages import make_page, throughput_place


def report_target(target: str | Study, *, out: str | None = None, events: StudyEvents) -> list[str]:
    """Write figures and the page of a study, a table of runs or a throughput study; returns their URIs, the page last.

    `out`: the folder with the fits, where figures and page go, too; default: the target's own. Raises StorageError
    where there are no results yet.
    """
    speed = throughput_place(target) if isinstance(target, str) else None
    if speed:
        return make_page(*speed, out or speed[1])
    place = locate(target, out)
    place.require_writable()
    written = make_report(place, events)
    mirror(place, written, fits_of(place), events)
    return written


def make_report(place: Target, events: StudyEvents) -> list[str]:
    """Figures and page of one study from what lies in its folder; returns the URIs written, the page last.

    Damaged files whose content the page can do without are reported as messages.
    """
    data = make_report_data(place, fits_of(place))
    for text in data.damages:
        events.message(text, "warning")
    return [*write_figures(data, place.folder), write_report(data, place.folder)]


def fits_of(place: Target) -> StudyFits:
    """What was fitted; nothing, where nothing was yet."""
    stored = storage.exists(storage.join(place.folder, "fits.json"))
    return read_fits(place.folder, place.fit_command) if stored else StudyFits()


def make_report_data(place: Target, fits: StudyFits) -> ReportData:
    """What figures and page are made from, read from what lies in the study's folder."""
    damages: list[str] = []
    return gather(
        study=place.study.model_dump(mode="json") if place.study else {"study": place.name, "question": ""},
        table=fitted_table(place),
        fits=fits,
        references=read_references(place.folder, damages.append),
        throughput=stored_throughput_table(place.folder),
        home=place.home,
        damages=damages,
    )
