"""`vqscale data generate`: labelled examples made by seeded rules, a command for each generator."""

from typing import Annotated, Any

import typer

from vqscale.cli.data_view import Bar, print_manifest, stopped_in_order
from vqscale.data.corpora import corpus_folder
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.options import checked
from vqscale.data.tasks.generator import Generator, InProcesses, numbers, span, three
from vqscale.data.tasks.listops import ListOps
from vqscale.data.tasks.needle import Needle
from vqscale.data.tasks.pathfinder import Pathfinder
from vqscale.data.tasks.recall import Recall

app = typer.Typer(no_args_is_help=True, help="Make labelled examples by seeded rules.")

Out = Annotated[str | None, typer.Option(help="Where the corpus goes: a folder or URI. Not given: your home, by name.")]
Seed = Annotated[int, typer.Option(help="Another seed, other examples.")]
Examples = Annotated[str, typer.Option(help="Examples of train, validation and test.")]
Processes = Annotated[int, typer.Option(help="Processes that draw examples; they do not change them.")]
Length = Annotated[int, typer.Option(help="Tokens of an example.")]
TrainLengths = Annotated[str, typer.Option(help="Tokens of training examples, in turn, if others.")]
ValidationLengths = Annotated[str, typer.Option(help="Tokens of validation examples, in turn, if others.")]
TestLengths = Annotated[str, typer.Option(help="Tokens of test examples, in turn, if others.")]
Keys = Annotated[int, typer.Option(help="Different keys there are.")]
Values = Annotated[int, typer.Option(help="Different values there are: the classes.")]
Fillers = Annotated[int, typer.Option(help="Different tokens that mean nothing.")]
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
    processes: Processes = 1,
    shard_tokens: ShardTokens = SHARD_TOKENS,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Nested MIN, MAX, MED and SM of digits; the class is the value (Long Range Arena, whose lengths are the default).

    Example: vqscale data generate listops --out corpora/listops-512 --examples 60000,2000,2000 --length 20:512
    """
    options = {"seed": seed, "examples": three(examples, "examples"), "length": span(length, "length")}
    generator = checked(ListOps, **options, max_depth=max_depth, max_args=max_args)
    _generate(generator, out, processes, shard_tokens, overwrite, as_json)


@app.command("pathfinder")
def pathfinder_command(
    out: Out = None,
    seed: Seed = 0,
    examples: Examples = "160000,20000,20000",
    size: Annotated[int, typer.Option(help="Pixels of a side: 32, 64 or 128; a sequence has its square.")] = 32,
    difficulty: Annotated[str, typer.Option(help="easy, intermediate or hard: paths of 6, 9 or 14 dashes.")] = "hard",
    real_inputs: Annotated[bool, typer.Option("--real-inputs", help="Pixels are numbers, not symbols.")] = False,
    processes: Processes = 1,
    shard_tokens: ShardTokens = SHARD_TOKENS,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Images of dashed paths: are two circles the ends of the same one? (Long Range Arena's Path; Path-X is size 128.)

    Example: vqscale data generate pathfinder --out corpora/path-easy --difficulty easy --examples 20000,1000,1000
    """
    options = {"seed": seed, "examples": three(examples, "examples"), "size": size, "difficulty": difficulty}
    generator = checked(Pathfinder, **options, real_inputs=real_inputs)
    _generate(generator, out, processes, shard_tokens, overwrite, as_json)


@app.command("recall")
def recall_command(
    out: Out = None,
    seed: Seed = 0,
    examples: Examples = "50000,1000,3000",
    length: Length = 256,
    train_lengths: TrainLengths = "",
    validation_lengths: ValidationLengths = "",
    test_lengths: TestLengths = "",
    pairs: Annotated[int, typer.Option(help="Key-value pairs at the start, all of them asked for.")] = 8,
    keys: Keys = 64,
    values: Values = 64,
    fillers: Fillers = 64,
    power: Annotated[float, typer.Option(help="Gaps before a query have odds gap**(power - 1); 1: uniform.")] = 0.01,
    processes: Processes = 1,
    shard_tokens: ShardTokens = SHARD_TOKENS,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Multi-query associative recall (Zoology, arXiv 2312.04927): pairs first, then their keys among filler.

    Example: vqscale data generate recall --out corpora/recall --length 256 --test-lengths 256,1024,4096
    """
    options = _lengths(seed, examples, length, train_lengths, validation_lengths, test_lengths)
    generator = checked(Recall, **options, pairs=pairs, keys=keys, values=values, fillers=fillers, power=power)
    _generate(generator, out, processes, shard_tokens, overwrite, as_json)


@app.command("needle")
def needle_command(
    out: Out = None,
    seed: Seed = 0,
    examples: Examples = "50000,1000,3000",
    length: Length = 256,
    train_lengths: TrainLengths = "",
    validation_lengths: ValidationLengths = "",
    test_lengths: TestLengths = "",
    pairs: Annotated[int, typer.Option(help="Key-value pairs at random depths; as many questions at the end.")] = 1,
    keys: Keys = 64,
    values: Values = 64,
    fillers: Fillers = 64,
    text: Annotated[str | None, typer.Option(help="Name or URI of a corpus of text that is the filler.")] = None,
    processes: Processes = 1,
    shard_tokens: ShardTokens = SHARD_TOKENS,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Needles in a haystack: pairs at random depths of a long filler, asked for at the very end.

    Example: vqscale data generate needle --out corpora/needle --length 256 --test-lengths 256,1024,4096,16384
    """
    options = _lengths(seed, examples, length, train_lengths, validation_lengths, test_lengths)
    generator = checked(Needle, **options, pairs=pairs, keys=keys, values=values, fillers=fillers, text=text)
    _generate(generator, out, processes, shard_tokens, overwrite, as_json)


def _lengths(seed: int, examples: str, length: int, train: str, validation: str, test: str) -> dict[str, Any]:
    """Options that both recall tasks have, as values."""
    return {
        "seed": seed,
        "examples": three(examples, "examples"),
        "length": length,
        "train_lengths": numbers(train, "train_lengths") if train else (),
        "validation_lengths": numbers(validation, "validation_lengths") if validation else (),
        "test_lengths": numbers(test, "test_lengths") if test else (),
    }


def _generate(
    generator: Generator, out: str | None, processes: int, shard_tokens: int, overwrite: bool, as_json: bool
) -> None:
    target = out or corpus_folder(generator.name)
    source = InProcesses(generator, processes)
    with stopped_in_order(), Bar(examples=True) as bar:
        manifest = prepare_labelled(source, target, shard_tokens=shard_tokens, overwrite=overwrite, progress=bar.update)
    print_manifest(target, manifest, as_json)
