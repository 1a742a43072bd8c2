"""VQ attention on a CPU against exact attention, its layer, and decoding: `python -m benchmarks.attention --help`.

Three tables: attention alone (forward and backward, batch 1, codes given) against PyTorch's
scaled_dot_product_attention on the same shapes; the whole gated layer of the model against its parameter-matched
full-attention baseline; one decoding step early and late in a sequence. Compared work alternates in one process.
"""

import argparse
import functools
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch

from benchmarks.document import facts, publish
from benchmarks.layers import SHAPES, SMOKE_SHAPES, Inputs, Shape, exact_layer, sdpa_layer, vq_layer
from vqkernels import DecodeState, VQState, decode_step
from vqscale.models.base import Segment
from vqscale.models.relative import RelativeAttention
from vqscale.models.transformer_full import FullAttention
from vqscale.models.transformer_vq import VQAttention
from vqscale.study.model import ModelConfig
from vqscale.throughput.alternate import alternate

Clock = Callable[[], float]
FILE = "attention_cpu"
POSITIONS = (1_000, 100_000)
_DECODE_TOKENS = (
    1024  # tokens of one measured run: whole blocks, so that every run folds a block into the cache equally often
)


class Sizes(NamedTuple):
    """What is measured, and how often."""

    shapes: Sequence[Shape]
    contexts: Sequence[int]
    layer: tuple[int, int, int, int]  # model width, key width, codebook size, block length; values are twice the first
    layer_contexts: Sequence[int]
    longest_full: int
    repeats: int
    budget: float  # seconds that each piece of work may take in total, after its first repeat


FULL = Sizes(SHAPES, (4096, 8192, 16384, 32768), (768, 128, 512, 512), (2048, 4096, 8192, 16384), 8192, 5, 10.0)
SMOKE = Sizes(SMOKE_SHAPES, (32, 64), (8, 8, 8, 8), (32, 64), 32, 2, 60.0)


def measure_attention(sizes: Sizes, clock: Clock = time.perf_counter) -> pd.DataFrame:
    """One row per shape, precision and T: microseconds per token of each, and the speed-up of VQ attention."""
    rows = []
    for shape in sizes.shapes:
        for dtype in (torch.float32, torch.bfloat16):
            for context in sizes.contexts:
                given = Inputs(shape, context, dtype)
                work = {
                    "vq": functools.partial(vq_layer, given),
                    "vq_bare": functools.partial(vq_layer, given, positions=False),
                    "sdpa": functools.partial(sdpa_layer, given),
                }
                if (
                    shape.d_value > shape.d_key
                ):  # where splitting values makes PyTorch's kernel compute the scores several times
                    work["exact"] = functools.partial(exact_layer, given)
                # The longest calls of the baseline take a minute each, so only the shortest are warmed up.
                warm = tuple(work) if context == min(sizes.contexts) else ("vq", "vq_bare")
                seconds = _alternate(work, sizes, clock, warm=warm)
                row = {"shape": str(shape), "dtype": str(dtype).removeprefix("torch."), "context": context}
                row |= _columns(seconds, context, base="sdpa")
                rows.append(row | {"vq_over_exact": _median_ratio(seconds, "vq", "exact")})
    return pd.DataFrame(rows)


def measure_layer(sizes: Sizes, clock: Clock = time.perf_counter) -> pd.DataFrame:
    """One row per T: the model's attention layers with projections, gates, nearest codes and statistics, in fp32."""
    rows = []
    for context in sizes.layer_contexts:
        layers: dict[str, RelativeAttention] = {"vq": VQAttention(_layer_config(sizes, vq=True))}
        if context <= sizes.longest_full:
            layers["full"] = FullAttention(_layer_config(sizes, vq=False))
        work = {name: _layer_step(layer, context) for name, layer in layers.items()}
        seconds = _alternate(work, sizes, clock, warm=tuple(work))
        rows.append({"context": context} | _columns(seconds, context, base="full"))
    return pd.DataFrame(rows)


def measure_decode(sizes: Sizes, clock: Clock = time.perf_counter) -> pd.DataFrame:
    """One row per shape: microseconds per token at an early and a late position, their ratio, and state bytes."""
    rows = []
    for shape in sizes.shapes:
        states = {position: _state_at(shape, position) for position in POSITIONS}
        work = {str(at): functools.partial(_decode, shape, state) for at, state in states.items()}
        seconds = _alternate(work, sizes, clock, warm=tuple(work))
        row: dict[str, object] = {"shape": str(shape), **_columns(seconds, _DECODE_TOKENS, base=str(POSITIONS[-1]))}
        rows.append(row | {f"bytes_{at}": state.nbytes for at, state in states.items()})
    return pd.DataFrame(rows)


def _alternate(
    work: Mapping[str, Callable[[], object]], sizes: Sizes, clock: Clock, warm: Sequence[str]
) -> dict[str, list[float]]:
    """Seconds of each; the pieces in `warm` are run once before."""
    for name in warm:
        work[name]()
    pieces = {name: functools.partial(_discard, piece) for name, piece in work.items()}
    return alternate(pieces, sizes.repeats, clock, budget=sizes.budget)


def _discard(piece: Callable[[], object]) -> None:
    piece()


def _columns(seconds: Mapping[str, Sequence[float]], tokens: int, base: str) -> dict[str, object]:
    """Time per token of each, and the time of `base` over that of every other one within the same repeat."""
    row: dict[str, object] = {}
    for name, taken in seconds.items():
        row[f"{name}_us"] = 1e6 * statistics.median(taken) / tokens
        row[f"{name}_repeats"] = len(taken)
        if base in seconds and name != base:
            ratios = [other / own for own, other in zip(taken, seconds[base], strict=False)]
            row[f"{name}_speedup"] = statistics.median(ratios)
            row[f"{name}_speedup_low"], row[f"{name}_speedup_high"] = min(ratios), max(ratios)
    return row


def _median_ratio(seconds: Mapping[str, Sequence[float]], own: str, other: str) -> float | None:
    """Median of the time of `other` over that of `own` within a repeat; None where one was not measured."""
    if own not in seconds or other not in seconds:
        return None
    return statistics.median(b / a for a, b in zip(seconds[own], seconds[other], strict=False))


def _layer_config(sizes: Sizes, *, vq: bool) -> ModelConfig:
    d_model, d_key, size, length = sizes.layer
    return ModelConfig(
        arch="transformer_vq" if vq else "transformer_full",
        head="shga",
        vocab_size=256,
        d_model=d_model,
        n_layer=1,
        d_key=d_key,
        d_value=2 * d_model,
        n_head=1,
        n_kv_head=1,
        codebook_size=size if vq else None,
        block_length=length if vq else None,
    )


def _layer_step(layer: RelativeAttention, context: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    layer.initialise(generator)
    x = torch.randn(1, context, layer.config.d_model, generator=generator, requires_grad=True)
    d_out = torch.randn(1, context, layer.config.d_model, generator=generator)
    parameters = [one for one in layer.parameters() if one.requires_grad]

    def step() -> object:
        out = layer(x, tuple(Segment(None, None, None, 0)), (), return_state=False, backend="auto")[0]
        return torch.autograd.grad(out, [x, *parameters], d_out, allow_unused=True)

    return step


def _state_at(shape: Shape, position: int) -> DecodeState:
    """A random state at a position: the cost of a step does not depend on its values."""
    given = Inputs(shape, 2 * shape.length)
    empty = VQState.empty(1, shape.n_kv_head, shape.size, shape.d_key, shape.d_value, shape.length)
    mean = torch.randn(empty.mean_BGSV.shape, generator=torch.Generator().manual_seed(0))
    state = empty._replace(
        code_BGU=given.code_BGT,
        value_BGUV=given.v_BGTV.detach(),
        mean_BGSV=mean,
        count_BGS=torch.full_like(empty.count_BGS, position / shape.size),
        position=position // shape.length * shape.length,
    )
    return DecodeState.from_state(state)


def _decode(shape: Shape, state: DecodeState) -> None:
    """A run of steps; the position is reset, so that every run starts at the same one."""
    given = Inputs(shape, shape.length)
    start = state.position.clone()
    biases = [one.detach() for one in (given.bias_u_HK, given.bias_w_HK, given.rel_key_GMK)]
    for step in range(_DECODE_TOKENS):
        at = step % shape.length
        decode_step(
            given.q_BHTK[:, :, at],
            given.v_BGTV[:, :, at],
            given.code_BGT[:, :, at],
            given.codebook_GSK,
            state,
            bias_u_HK=biases[0],
            bias_w_HK=biases[1],
            rel_key_GMK=biases[2],
        )
    state.position.copy_(start)


def as_markdown(tables: Mapping[str, pd.DataFrame], command: str) -> str:
    """The tables as Markdown, with everything needed to repeat the measurement."""
    return "\n".join(
        [
            "# Attention on a CPU: VQ attention, exact attention, the whole layer, decoding",
            "",
            "Medians of the repeats; ratios are taken within a repeat, their range in brackets. `VQ` has the biases",
            "and relative keys of the model, which exact attention does not have here; `bare VQ` does not have",
            "them. Batch 1, codes given: their search and statistics are in the layer's table. n: repeats of the",
            "baseline.",
            "",
            "PyTorch's kernel takes one width for keys and values. SHGA's values are split for it into heads that",
            "share queries and keys, which is exact and computes the scores once for each. `exact, unsplit` is plain",
            "products and softmax, 512 queries at a time, all weights kept for the backward pass: quadratic memory.",
            "",
            *facts(command),
            "",
            "## Attention alone, forward and backward, against scaled_dot_product_attention",
            "",
            *_attention_lines(tables[""]),
            "",
            "## The SHGA layer of the model with projections, forward and backward, fp32",
            "",
            *_layer_lines(tables["_layer"]),
            "",
            "## Decoding, one token at a time, fp32",
            "",
            f"Runs of {_DECODE_TOKENS:,} tokens that begin at the last block's start before each position.",
            "",
            *_decode_lines(tables["_decode"]),
            "",
        ]
    )


def _attention_lines(table: pd.DataFrame) -> list[str]:
    lines: list[str] = []
    for (shape, dtype), rows in table.groupby(["shape", "dtype"], sort=False):
        lines += ["", f"### {shape}, {dtype}", ""]
        split = rows["exact_us"].notna().any() if "exact_us" in rows else False
        head = (
            "| T | n | SDPA, us per token | VQ, us per token | times as fast | bare VQ, us per token | times as fast |"
        )
        lines += [head + (" exact, unsplit, us per token | VQ times as fast |" if split else "")]
        lines += ["|" + "--:|" * (9 if split else 7)]
        for row in rows.to_dict("records"):
            own = " | ".join(f"{row[f'{name}_us']:.1f} | {_speedup(row, name)}" for name in ("vq", "vq_bare"))
            exact = f" {row['exact_us']:.1f} | {row['vq_over_exact']:.2f} |" if split else ""
            lines.append(f"| {row['context']} | {row['sdpa_repeats']} | {row['sdpa_us']:.1f} | {own} |{exact}")
    return lines


def _layer_lines(table: pd.DataFrame) -> list[str]:
    lines = ["| T | VQ, us per token | full attention, us per token | times as fast |", "|--:|--:|--:|--:|"]
    for row in table.to_dict("records"):
        measured = pd.notna(row.get("full_us"))
        full = f"{row['full_us']:.0f} | {_speedup(row, 'vq')}" if measured else "not measured | "
        lines.append(f"| {row['context']} | {row['vq_us']:.0f} | {full} |")
    return lines


def _decode_lines(table: pd.DataFrame) -> list[str]:
    early, late = POSITIONS
    lines = [
        f"| shape | us per token near {early:,} | us per token near {late:,} | late / early | state (bytes) at each |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in table.to_dict("records"):
        times = f"{row[f'{early}_us']:.0f} | {row[f'{late}_us']:.0f} | {_speedup(row, str(early))}"
        lines.append(f"| {row['shape']} | {times} | {row[f'bytes_{early}']:,}, {row[f'bytes_{late}']:,} |")
    return lines


def _speedup(row: Mapping[object, object], name: str) -> str:
    if row[f"{name}_speedup_low"] == row[f"{name}_speedup_high"]:
        return f"{row[f'{name}_speedup']:.2f} (once)"
    low, high = row[f"{name}_speedup_low"], row[f"{name}_speedup_high"]
    return f"{row[f'{name}_speedup']:.2f} [{low:.2f}, {high:.2f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the tables as Markdown and CSV."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = SMOKE if options.smoke else FULL
    tables = {"": measure_attention(sizes), "_layer": measure_layer(sizes), "_decode": measure_decode(sizes)}
    text = as_markdown(tables, shlex.join(["python", "-m", "benchmarks.attention", *given]))
    publish(options.out, f"{FILE}_smoke" if options.smoke else FILE, tables, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=main.__doc__)
    parser.add_argument("--out", default="docs/benchmarks", help="folder or URI of the results")
    parser.add_argument("--threads", type=int, help="threads of the CPU; default: as many as PyTorch takes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run? Names its files apart")
    return parser


if __name__ == "__main__":
    main()
