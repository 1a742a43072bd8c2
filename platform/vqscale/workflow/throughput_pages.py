"""Figures and page of a throughput study from its table. Measures nothing, so loads no torch."""

from vqscale import storage
from vqscale.reporting import write_throughput_figures, write_throughput_report
from vqscale.study.places import STUDY_FILE, is_study_file, open_any
from vqscale.study.throughput_study import ThroughputStudy
from vqscale.throughput.table import THROUGHPUT_PARQUET, read_throughput_table


def make_page(study: ThroughputStudy, folder: str, out: str) -> list[str]:
    """Figures and page of a throughput study under `out`, from the table in its folder; returns their URIs, page last.

    Raises StorageError where nothing was measured yet.
    """
    table = read_throughput_table(storage.join(folder, THROUGHPUT_PARQUET))
    return [*write_throughput_figures(table, out), write_throughput_report(out, study=study, table=table)]


def throughput_place(target: str) -> tuple[ThroughputStudy, str] | None:
    """The throughput study that a study file or a study's folder holds, with its folder; None for anything else."""
    if not is_study_file(target) and not storage.exists(storage.join(target, STUDY_FILE)):
        return None
    study = open_any(target)
    return (study, study.folder) if isinstance(study, ThroughputStudy) else None
