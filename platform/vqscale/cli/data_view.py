"""What `vqscale data` shows: progress, and what a corpus holds."""

import contextlib
import time
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from vqscale.cli.console import make_console
from vqscale.cli.signals import terminated_as_interrupted
from vqscale.data.labelled.format import LabelledManifest
from vqscale.data.manifests import AnyManifest
from vqscale.data.publish import PreparationStage
from vqscale.data.shards import Manifest, SourceRecord
from vqscale.errors import StudyInterruptedError

_LONGEST_SILENCE = 0.1  # seconds between two updates of the bar
_SHOWN_CLASSES = 40
_SHOWN_REASONS = 3


@contextlib.contextmanager
def stopped_in_order() -> Iterator[None]:
    """Turn Ctrl-C, or a request to end, into exit code 130 and a sentence about what is left."""
    try:
        with terminated_as_interrupted():
            yield
    except KeyboardInterrupt as error:
        raise StudyInterruptedError("No corpus was written. Repeat the command to prepare it.") from error


class Bar:
    """A progress bar on stderr: one line a stage, bytes of the source read of those there are, or examples made."""

    def __init__(self, *, examples: bool = False) -> None:
        amounts = (MofNCompleteColumn(),) if examples else (DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *amounts,
            TimeRemainingColumn(),
            console=make_console(stderr=True),
        )
        self._tasks: dict[PreparationStage, TaskID] = {}
        self._shown = 0.0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, stage: PreparationStage, done: int, total: int | None) -> None:
        """Show progress, several times per second at most and whenever a stage begins or ends."""
        if stage == "complete":
            self._progress.console.print("This corpus is complete already; nothing to do.")
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        elif time.monotonic() - self._shown < _LONGEST_SILENCE and done != total:
            return
        self._shown = time.monotonic()
        self._progress.update(self._tasks[stage], completed=done)


def _print_text(uri: str, manifest: Manifest) -> None:
    table = Table("split", "tokens", "bytes", "documents", "words", "shards", title=uri, title_justify="left")
    for name, record in manifest.splits.items():
        counts = (record.tokens, record.bytes, record.documents, record.words, len(record.shards))
        table.add_row(name, *("" if count is None else f"{count:,}" for count in counts))
    console = make_console()
    console.print(table)
    console.print(f"source       {_source(manifest.source)} (split: {manifest.source.split_by})")
    if times := manifest.source.split_times:
        console.print(f"times        train from {times[0]}, validation from {times[1]}, test from {times[2]}")
        console.print(f"             last {times[3]}")
    for note in manifest.source.notes:
        console.print(f"note         {note}", style="yellow")
    _print_left_out(console, manifest.source, "documents")
    console.print(f"tokenizer    {manifest.tokenizer}, {manifest.vocab_size:,} ids", highlight=False)
    console.print(f"fingerprint  {manifest.fingerprint}", highlight=False)


def _source(source: SourceRecord) -> str:
    formats = ", ".join(f"{count:,} {name}" for name, count in sorted(source.formats.items()))
    return f"{source.description}: {formats}" if formats else source.description


def _print_left_out(console: Console, source: SourceRecord, unit: str) -> None:
    """What the corpus does not hold, and what is not as it was."""
    left_out = source.left_out
    counts = {
        f"empty {unit}": source.empty_documents,
        "records without a text": left_out.without_text,
        f"unreadable {'records' if unit == 'documents' else unit}": left_out.unreadable,
        "bytes that are not in the encoding": left_out.bytes_skipped,
    }
    if found := ", ".join(f"{count:,} {name}" for name, count in counts.items() if count):
        console.print(f"left out     {found}")
    if left_out.bytes_replaced:
        console.print(f"replaced     {left_out.bytes_replaced:,} bytes that are not in the encoding")
    for reason in left_out.first[:_SHOWN_REASONS]:
        console.print(f"             {reason}")


def print_manifest(uri: str, manifest: AnyManifest, as_json: bool) -> None:
    """What a corpus holds, as JSON or for people."""
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
    elif isinstance(manifest, LabelledManifest):
        _print_labelled(uri, manifest)
    else:
        _print_text(uri, manifest)


def _print_labelled(uri: str, manifest: LabelledManifest) -> None:
    table = Table("split", "examples", "tokens", "lengths: least, 5 %, median, 95 %, most", "shards")
    table.title, table.title_justify = uri, "left"
    for name, record in manifest.splits.items():
        lengths = ", ".join(str(length) for length in record.lengths)
        table.add_row(name, f"{record.examples:,}", f"{record.tokens:,}", lengths, f"{len(record.shards):,}")
    console, layout = make_console(), manifest.layout
    console.print(table)
    console.print(_class_table(manifest))
    pairs = " in pairs" if layout.sequences == 2 else ""
    kind = "samples of a signal" if layout.real_inputs else "symbols"
    console.print(f"source       {manifest.source.description}")
    _print_left_out(console, manifest.source, "examples")
    console.print(f"labels       a {layout.labels}{pairs}, {len(layout.classes)} classes", highlight=False)
    console.print(
        f"vocabulary   {layout.vocabulary.size:,} ids ({kind}; id = {layout.vocabulary.rule})", highlight=False
    )
    console.print(f"fingerprint  {manifest.fingerprint}", highlight=False)


def _class_table(manifest: LabelledManifest) -> Table:
    table = Table("class", *manifest.splits)
    classes = manifest.layout.classes
    for label, name in enumerate(classes[:_SHOWN_CLASSES]):
        table.add_row(name, *(f"{record.class_counts[label]:,}" for record in manifest.splits.values()))
    if len(classes) > _SHOWN_CLASSES:
        rest = (sum(record.class_counts[_SHOWN_CLASSES:]) for record in manifest.splits.values())
        table.add_row(f"{len(classes) - _SHOWN_CLASSES} others", *(f"{count:,}" for count in rest))
    return table
