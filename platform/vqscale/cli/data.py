"""`vqscale data`: prepare corpora, list and show them."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from vqscale.cli import data_generate
from vqscale.cli.console import make_console
from vqscale.cli.data_view import Bar, print_manifest, stopped_in_order
from vqscale.data.corpora import corpora_folder, corpus_folder, list_corpora, resolve_corpus
from vqscale.data.decoding import Errors
from vqscale.data.labelled.format import LabelledManifest
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.loaders import LOADERS, StandardLibrary
from vqscale.data.manifests import AnyManifest, read_manifest
from vqscale.data.prepare import prepare
from vqscale.data.sources import Format, SplitRule
from vqscale.data.tasks.catalogue import LABELLED_LOADERS, raw_files_loader
from vqscale.data.tokenize import TokenizerName
from vqscale.errors import CorpusError

app = typer.Typer(no_args_is_help=True, help="Make corpora of text and of labelled examples, and see them.")
app.add_typer(data_generate.app, name="generate")
FRACTIONS = (0.9, 0.05, 0.05)
"""Of text; loaders of labelled examples have their own."""


@app.command("prepare")
def prepare_command(
    source: Annotated[str, typer.Argument(help="File, folder, glob or archive at any URI; or `stdlib`.")],
    out: Annotated[
        str | None, typer.Option(help="Where the corpus goes: a folder or URI. Named corpora: your home.")
    ] = None,
    loader: Annotated[
        str | None,
        typer.Option("--as", help=f"SOURCE is the data set: {', '.join((*LOADERS, *LABELLED_LOADERS))}."),
    ] = None,
    tokenizer: Annotated[TokenizerName, typer.Option(help="bytes, or bpe trained on the train split.")] = "bytes",
    vocab_size: Annotated[int | None, typer.Option(help="Ids of a bpe tokenizer.")] = None,
    split: Annotated[
        SplitRule | None, typer.Option(help="document-hash, contiguous, time, or own (named corpora).")
    ] = None,
    fractions: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Train, validation, test: 0.9 0.05 0.05 of text, 0.8 0.1 0.1 of labelled examples."),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="auto (by file name), text, jsonl, json, csv, tsv (without quotes) or parquet.")
    ] = "auto",
    text_column: Annotated[
        str, typer.Option(help="The column of records that holds the text; or a path such as event.message.")
    ] = "text",
    time_column: Annotated[
        str | None, typer.Option(help="The column of records that holds their time, for --split time.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of text; `binary` takes bytes as they are.")] = "utf-8",
    errors: Annotated[
        Errors, typer.Option(help="Bytes that are no text: strict refuses, replace, or skip (also damaged records).")
    ] = "strict",
    include: Annotated[
        list[str] | None, typer.Option(help="Pattern of files to read, such as '*.txt'; may be repeated.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of files to leave out; may be repeated.")] = None,
    max_skipped: Annotated[
        float | None, typer.Option(help="Most records that may lack a text: 0.5 of all; 0.1 of labelled examples.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="--as: the files need not be the whole data set.")] = False,
    length: Annotated[int | None, typer.Option(help="Labelled examples: tokens of a sequence at most.")] = None,
    validation: Annotated[float | None, typer.Option(help="Labelled examples: share held out of train.")] = None,
    seed: Annotated[int | None, typer.Option(help="Labelled examples: another one, other examples held out.")] = None,
    real_inputs: Annotated[bool, typer.Option("--real-inputs", help="Pixels are numbers, not symbols.")] = False,
    shard_tokens: Annotated[int, typer.Option(help="Tokens of one shard.")] = 2**25,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another corpus at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Turn text or labelled examples into a corpus: token shards and a manifest. Interrupted? Repeat the command.

    Example: vqscale data prepare 'books/*.txt.gz' --out corpora/books --tokenizer bpe --vocab-size 8192
    """
    is_stdlib = source == "stdlib" and loader is None
    name = "stdlib" if is_stdlib else loader
    if loader is not None and loader not in LOADERS | LABELLED_LOADERS:
        raise CorpusError(f"as: {loader!r} is not known. There are {', '.join((*LOADERS, *LABELLED_LOADERS))}.")
    if out is None and name is None:
        raise CorpusError("out: not given. Say where the corpus goes with --out FOLDER_OR_URI.")
    target = out or corpus_folder(name or "")
    of_text: dict[str, Any] = {"tokenizer": tokenizer, "vocab_size": vocab_size, "split": split}
    of_text |= {"format": format, "text_column": text_column, "time_column": time_column, "encoding": encoding}
    of_text |= {"errors": errors, "include": tuple(include or ()), "exclude": tuple(exclude or ())}
    of_labels: dict[str, Any] = {
        "length": length,
        "validation": validation,
        "seed": seed,
        "real_inputs": real_inputs or None,
    }
    common: dict[str, Any] = {"shard_tokens": shard_tokens, "overwrite": overwrite}
    if max_skipped is not None:
        common["max_skipped"] = max_skipped
    with stopped_in_order(), Bar() as bar:
        common["progress"] = bar.update
        if loader in LABELLED_LOADERS:
            _refuse(of_text, f"{loader} has labelled examples")
            raw_files = raw_files_loader(loader, source, partial=partial, fractions=fractions, **of_labels)
            manifest: AnyManifest = prepare_labelled(raw_files, target, **common)
        else:
            _refuse(of_labels, "this source is text")
            texts = StandardLibrary() if is_stdlib else source
            of_text |= {"loader": loader, "fractions": fractions or FRACTIONS, "partial": partial}
            manifest = prepare(texts, target, **of_text, **common)
    print_manifest(target, manifest, as_json)


def _refuse(options: dict[str, Any], reason: str) -> None:
    """Raise CorpusError for the first of `options` that differs from its default."""
    defaults: dict[str, Any] = {
        "tokenizer": "bytes",
        "format": "auto",
        "text_column": "text",
        "encoding": "utf-8",
        "errors": "strict",
    }
    defaults |= dict.fromkeys(("include", "exclude"), ())
    for name, value in options.items():
        if value != defaults.get(name):
            raise CorpusError(f"{name}: {value} does not fit: {reason}. Leave it out.")


@app.command("list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the prepared corpora in your home ($VQSCALE_HOME, else ~/.cache/vqscale).

    Example: vqscale data list
    """
    found = {uri: read_manifest(uri) for uri in list_corpora()}
    if as_json:
        typer.echo(json.dumps({uri: manifest.model_dump(mode="json") for uri, manifest in found.items()}, indent=2))
        return
    table = Table("corpus", "holds", "train tokens", "fingerprint", title=f"Corpora in {corpora_folder()}")
    for uri, manifest in found.items():
        tokens = f"{manifest.splits['train'].tokens:,}"
        table.add_row(uri.rsplit("/", 1)[-1], _holds(manifest), tokens, manifest.fingerprint[:12])
    make_console().print(table if found else f"No corpora in {corpora_folder()}. Make one: vqscale data prepare stdlib")


def _holds(manifest: AnyManifest) -> str:
    if isinstance(manifest, LabelledManifest):
        return f"{len(manifest.layout.classes)} classes"
    return f"text as {manifest.tokenizer}"


@app.command("show")
def show_command(
    corpus: Annotated[str, typer.Argument(help="Name or URI of a prepared corpus.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a corpus holds.

    Example: vqscale data show corpora/books
    """
    uri = resolve_corpus(corpus)
    print_manifest(uri, read_manifest(uri), as_json)
