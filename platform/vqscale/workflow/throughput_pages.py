"""Figures and page of a throughput study from its table. Measures nothing, so loads no torch."""

from vqscale import storage
from vqscale.reporting import write_throughput_figures, write_throughput_report
from vqscale.study.throughput_study import ThroughputStudy, load_any
from vqscale.throughput.table import THROUGHPUT_PARQUET, read_throughput_table

STUDY_FILE = "study.yaml"


def make_page(study: ThroughputStudy, folder: str, out: str) -> list[str]:
    """Figures and page of a throughput study under `out`, from the table in its folder; returns their URIs, page last.

    Raises StorageError where nothing was measured yet.
    """
    table = read_throughput_table(storage.join(folder, THROUGHPUT_PARQUET))
    return [*write_throughput_figures(table, out), write_throughput_report(out, study=study, table=table)]


def throughput_place(target: str) -> tuple[ThroughputStudy, str] | None:
    """The throughput study that a study file or a study's folder holds, with its folder; None for anything else."""
    is_file = target.endswith((".yaml", ".yml"))
    path = target if is_file else storage.join(storage.absolute(target), STUDY_FILE)
    if not storage.exists(path):
        return None
    study = load_any(path)
    if not isinstance(study, ThroughputStudy):
        return None
    return study, study.folder if is_file else storage.absolute(target)
