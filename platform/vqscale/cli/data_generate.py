"""`vqscale data generate`: labelled examples made by seeded rules, a command for each generator."""

from typing import Annotated

import typer

from vqscale.cli.data_view import Bar, print_manifest
from vqscale.data.corpora import corpus_folder
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.options import checked
from vqscale.data.tasks.generator import Generator, numbers, span
from vqscale.data.tasks.listops import ListOps

app = typer.Typer(no_args_is_help=True, help="Make labelled examples by seeded rules.")

Out = Annotated[str | None, typer.Option(help="Where the corpus goes: a folder or URI. Not given: your home, by name.")]
Seed = Annotated[int, typer.Option(help="Another seed, other examples.")]
Examples = Annotated[str, typer.Option(help="Examples of train, validation and test.")]
ShardTokens = Annotated[int, typer.Option(help="Tokens of one shard.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another corpus at --out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")]
SHARD_TOKENS = 2**25


@app.command("listops")
def listops_command(
    out: Out = None,
    seed: Seed = 0,
    examples: Examples = "96000,2000,2000",
    length: Annotated[str, typer.Option(help="Tokens of an expression, MIN:MAX, both included.")] = "501:1999",
    max_depth: Annotated[int, typer.Option(help="Levels of nesting; the deepest holds digits only.")] = 10,
    max_args: Annotated[int, typer.Option(help="Arguments of an operator at most.")] = 10,
    shard_tokens: ShardTokens = SHARD_TOKENS,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Nested MIN, MAX, MED and SM of digits; the class is the value (Long Range Arena, whose lengths are the default).

    Example: vqscale data generate listops --out corpora/listops-512 --examples 60000,2000,2000 --length 20:512
    """
    generator = checked(
        ListOps,
        seed=seed,
        examples=numbers(examples, "examples"),
        length=span(length, "length"),
        max_depth=max_depth,
        max_args=max_args,
    )
    _generate(generator, out, shard_tokens, overwrite, as_json)


def _generate(generator: Generator, out: str | None, shard_tokens: int, overwrite: bool, as_json: bool) -> None:
    target = out or corpus_folder(generator.name)
    with Bar(examples=True) as bar:
        manifest = prepare_labelled(
            generator, target, shard_tokens=shard_tokens, overwrite=overwrite, progress=bar.update
        )
    print_manifest(target, manifest, as_json)
