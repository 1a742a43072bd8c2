"""`vqscale data`: prepare corpora, list and show them."""

import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from vqscale.data.corpora import corpora_folder, corpus_folder, list_corpora, resolve_corpus
from vqscale.data.loaders import LOADERS, StandardLibrary
from vqscale.data.prepare import Stage, prepare
from vqscale.data.shards import Manifest, read_manifest
from vqscale.data.sources import Format, SplitRule
from vqscale.data.tokenize import TokenizerName
from vqscale.errors import CorpusError

app = typer.Typer(no_args_is_help=True, help="Prepare text as corpora, and see which there are.")

_LONGEST_SILENCE = 0.1  # seconds between two updates of the bar


@app.command("prepare")
def prepare_command(
    source: Annotated[str, typer.Argument(help="File, folder, glob or archive at any URI; or `stdlib`.")],
    out: Annotated[
        str | None, typer.Option(help="Where the corpus goes: a folder or URI. Named corpora: your home.")
    ] = None,
    loader: Annotated[
        str | None, typer.Option("--as", help=f"SOURCE is the original of: {', '.join(LOADERS)}.")
    ] = None,
    tokenizer: Annotated[TokenizerName, typer.Option(help="bytes, or bpe trained on the train split.")] = "bytes",
    vocab_size: Annotated[int | None, typer.Option(help="Ids of a bpe tokenizer.")] = None,
    split: Annotated[SplitRule | None, typer.Option(help="document-hash, contiguous, or own (named corpora).")] = None,
    fractions: Annotated[tuple[float, float, float], typer.Option(help="Train, validation, test.")] = (0.9, 0.05, 0.05),
    format: Annotated[Format, typer.Option(help="auto (by file name), text, jsonl or parquet.")] = "auto",
    text_column: Annotated[str, typer.Option(help="The column of jsonl and parquet that holds the text.")] = "text",
    encoding: Annotated[str, typer.Option(help="Encoding of text; `binary` takes bytes as they are.")] = "utf-8",
    shard_tokens: Annotated[int, typer.Option(help="Tokens of one shard.")] = 2**25,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another corpus at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Turn text into a corpus: token shards and a manifest. Repeat the command to go on after an interruption.

    Example: vqscale data prepare 'books/*.txt.gz' --out corpora/books --tokenizer bpe --vocab-size 8192
    """
    is_stdlib = source == "stdlib" and loader is None
    name = "stdlib" if is_stdlib else loader
    if out is None and name is None:
        raise CorpusError("out: not given. Say where the corpus goes with --out FOLDER_OR_URI.")
    target = out or corpus_folder(name or "")
    with _Bar() as bar:
        manifest = prepare(
            StandardLibrary() if is_stdlib else source,
            target,
            loader=loader,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            split=split,
            fractions=fractions,
            text_column=text_column,
            format=format,
            encoding=encoding,
            shard_tokens=shard_tokens,
            overwrite=overwrite,
            progress=bar.update,
        )
    _print_manifest(target, manifest, as_json)


@app.command("list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the prepared corpora in your home ($VQSCALE_HOME, else ~/.cache/vqscale).

    Example: vqscale data list
    """
    found = {uri: read_manifest(uri) for uri in list_corpora()}
    if as_json:
        typer.echo(json.dumps({uri: manifest.model_dump(mode="json") for uri, manifest in found.items()}, indent=2))
        return
    table = Table("corpus", "tokenizer", "train tokens", "fingerprint", title=f"Corpora in {corpora_folder()}")
    for uri, manifest in found.items():
        tokens = f"{manifest.splits['train'].tokens:,}"
        table.add_row(uri.rsplit("/", 1)[-1], manifest.tokenizer, tokens, manifest.fingerprint[:12])
    Console().print(table if found else f"No corpora in {corpora_folder()}. Make one: vqscale data prepare stdlib")


@app.command("show")
def show_command(
    corpus: Annotated[str, typer.Argument(help="Name or URI of a prepared corpus.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a corpus holds.

    Example: vqscale data show corpora/books
    """
    uri = resolve_corpus(corpus)
    _print_manifest(uri, read_manifest(uri), as_json)


class _Bar:
    """A progress bar on stderr: one line a stage, bytes of the source read of those there are."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[Stage, TaskID] = {}
        self._shown = 0.0

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, stage: Stage, done: int, total: int | None) -> None:
        """Show progress, several times a second at most and whenever a stage begins or ends."""
        if stage == "complete":
            self._progress.console.print("This corpus is complete already; nothing to do.")
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        elif time.monotonic() - self._shown < _LONGEST_SILENCE and done != total:
            return
        self._shown = time.monotonic()
        self._progress.update(self._tasks[stage], completed=done)


def _print_manifest(uri: str, manifest: Manifest, as_json: bool) -> None:
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return
    table = Table("split", "tokens", "bytes", "documents", "words", "shards", title=uri, title_justify="left")
    for name, record in manifest.splits.items():
        counts = (record.tokens, record.bytes, record.documents, record.words, len(record.shards))
        table.add_row(name, *("" if count is None else f"{count:,}" for count in counts))
    console = Console()
    console.print(table)
    console.print(f"source       {manifest.source.description} (split: {manifest.source.split_by})", highlight=False)
    console.print(f"tokenizer    {manifest.tokenizer}, {manifest.vocab_size:,} ids", highlight=False)
    console.print(f"fingerprint  {manifest.fingerprint}", highlight=False)
