"""How fast VQ attention is on this device, beside its peers, and how near to what the device can do at most."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from vqkernels import DecodeState, VQState
from vqkernels.gpu_check.cases import Case, Tensors, draw_on_device, forward_backward
from vqkernels.gpu_check.contenders import GIVEN, WITH_CODES, contenders
from vqkernels.gpu_check.decoding import Slot
from vqkernels.gpu_check.roofline import Ceilings, Work, exact_work, vq_work
from vqkernels.gpu_check.timing import Timing, milliseconds, release, time_alternately
from vqkernels.gpu_check.verify import jobs

Row = dict[str, Any]
_LONGEST_FLEX = 32768


@dataclass(frozen=True)
class Plan:
    """What is measured: layers, lengths, and how long one call may take."""

    layers: tuple[Case, ...]
    tokens: int  # of a call: the batch is this divided by T
    lengths: tuple[int, ...]
    longest_forward: int  # measured forward only, batch 1
    positions: tuple[int, ...]  # of decoding
    seconds_a_call: float
    rounds: int


FULL = Plan(
    layers=(
        Case("SHGA 190M", 1, 1, 128, 1536, 512, 512, 0),
        Case("SHGA 1.3B", 1, 1, 128, 4096, 512, 512, 0),
        Case("12 heads of 64", 12, 12, 64, 64, 512, 512, 0),
    ),
    tokens=131072,
    lengths=(2048, 4096, 8192, 16384, 32768, 65536, 131072),
    longest_forward=524288,
    positions=(1_000, 100_000),
    seconds_a_call=2.0,
    rounds=5,
)
SMOKE = Plan(
    layers=(Case("fused", 2, 1, 16, 16, 16, 16, 0), Case("wide", 1, 1, 16, 272, 16, 16, 0)),
    tokens=48,
    lengths=(40,),
    longest_forward=56,
    positions=(20, 1_000),
    seconds_a_call=60.0,
    rounds=1,
)


def measure_layers(
    plan: Plan, device: torch.device, dtype: torch.dtype, ceilings: Ceilings, report: Callable[[str], None]
) -> Iterator[Row]:
    """One row per layer, T, pass and contender: milliseconds, useful FLOP/s, share of the roofline, memory, ratio."""
    for length in (*plan.lengths, plan.longest_forward):
        for layer in plan.layers:
            case = replace(layer, batch=max(1, plan.tokens // length), length=length)
            given = draw_on_device(case, dtype, device)
            for backward in (False, True) if length in plan.lengths else (False,):
                yield from _measured(plan, case, given, ceilings, backward=backward)
            del given
            release(device)
            report(f"{layer.name}: T = {length} measured")


def _measured(plan: Plan, case: Case, given: Tensors, ceilings: Ceilings, *, backward: bool) -> Iterator[Row]:
    batch, length, device, dtype = case.batch, case.length, given.q_BHTK.device, given.q_BHTK.dtype
    functions, missing = contenders(
        case, given, backward=backward, quadratic=length <= max(plan.lengths), flex=length in _flex_lengths(plan)
    )
    timings = time_alternately(functions, device, plan.seconds_a_call, plan.rounds)
    for name, timing in {**timings, **missing}.items():
        row: Row = {"layer": case.name, "T": length, "batch": batch, "pass": "fwd+bwd" if backward else "fwd"}
        row |= {"contender": name, "dtype": str(dtype).removeprefix("torch.")}
        if isinstance(timing, str):
            yield row | {"status": timing}
            continue
        row |= {"status": "ok", "ms": timing.median, "ms_low": timing.low, "ms_high": timing.high}
        row |= {"peak_bytes": timing.peak_bytes, "ns_per_token": 1e6 * timing.median / (batch * length)}
        work = _work(name, case, batch, length, backward, dtype.itemsize)
        if work is not None:
            row["tflops"] = work.flops / timing.median / 1e9
            row["share_of_roofline"] = work.share(timing.median / 1e3, ceilings)
        row |= _ratios("over_vq", timing, timings[WITH_CODES]) | _ratios("over_vq_given_codes", timing, timings[GIVEN])
        yield row


def _ratios(name: str, timing: Timing, ours: Timing | str) -> Row:
    """Within each turn: the median, the lowest and the highest."""
    if isinstance(ours, str):
        return {}
    ratios = sorted(other / own for other, own in zip(timing.rounds, ours.rounds, strict=True))
    return {name: ratios[len(ratios) // 2], f"{name}_low": ratios[0], f"{name}_high": ratios[-1]}


def _flex_lengths(plan: Plan) -> set[int]:
    """FlexAttention is compiled for each shape, which takes long: the shortest, the middle and the longest."""
    short = [length for length in plan.lengths if length <= _LONGEST_FLEX]
    return {short[0], short[len(short) // 2], short[-1]}


def _work(name: str, case: Case, batch: int, length: int, backward: bool, item: int) -> Work | None:
    """Useful work: known for VQ attention and for exact attention, not for the linear-time peers."""
    if name in (GIVEN, WITH_CODES):
        work = vq_work(case, batch, length, backward=backward, item=item)
        scores = 2 * batch * case.n_kv_head * length * case.size * case.d_key if name == WITH_CODES else 0
        return Work(work.flops + scores, work.bytes)
    if name.startswith(("sdpa", "flex")):
        return exact_work(case, batch, length, backward=backward, item=item)
    return None


def measure_decode(plan: Plan, device: torch.device, dtype: torch.dtype, ceilings: Ceilings) -> Iterator[Row]:
    """One row per layer and position: microseconds per step at batch 1, on CUDA as a graph's replay, and the state."""
    for layer in plan.layers:
        case = replace(layer, batch=1, length=2 * layer.block_length)
        slot = Slot(draw_on_device(case, dtype, device))
        works: dict[str, Callable[[], object]] = {}
        sizes: dict[str, int] = {}
        for position in plan.positions:
            state = _state_at(case, position, dtype, device)
            works[str(position)] = _step(slot, state)
            sizes[str(position)] = state.nbytes
        for name, timing in time_alternately(works, device, plan.seconds_a_call, plan.rounds).items():
            row: Row = {"layer": layer.name, "position": int(name), "state_bytes": sizes[name]}
            if isinstance(timing, str):
                yield row | {"status": timing}
                continue
            share = sizes[name] / ceilings.bytes_per_second / (timing.median / 1e3)
            row |= {"status": "ok", "us": 1e3 * timing.median, "us_low": 1e3 * timing.low, "us_high": 1e3 * timing.high}
            yield row | {"share_of_roofline": share}


def _step(slot: Slot, state: DecodeState) -> Callable[[], object]:
    if not state.position.is_cuda:
        return lambda: slot.step(state)
    graph, out = slot.captured(state)

    def replay() -> object:
        graph.replay()
        return state, out  # the graph reads and writes this memory, which must live as long as it

    return replay


def _state_at(case: Case, position: int, dtype: torch.dtype, device: torch.device) -> DecodeState:
    empty = VQState.empty(
        1, case.n_kv_head, case.size, case.d_key, case.d_value, case.block_length, device=device, dtype=dtype
    )
    state = empty._replace(
        code_BGU=torch.randint(0, case.size, empty.code_BGU.shape, device=device),
        value_BGUV=torch.randn_like(empty.value_BGUV),
        mean_BGSV=torch.randn_like(empty.mean_BGSV),
        count_BGS=torch.full_like(empty.count_BGS, position / case.size),
        position=position,
    )
    return DecodeState.from_state(state)


def measure_configurations(
    plan: Plan, device: torch.device, dtype: torch.dtype, report: Callable[[str], None]
) -> Iterator[Row]:
    """Which configuration of each kernel is the fastest: one row per layer, kernel and configuration.

    The whole layer is timed, forward and backward, with that one kernel changed. The first configuration that fits
    should be the fastest; where it is not, the order in the kernel's tuple in the source has to be changed.
    """
    length = plan.lengths[len(plan.lengths) // 2]
    for layer in plan.layers:
        case = replace(layer, batch=max(1, plan.tokens // length), length=length)
        given = draw_on_device(case, dtype, device)

        def work(given: Any = given, case: Case = case) -> object:
            return forward_backward(given, case.block_length, "triton")

        name = str(dtype).removeprefix("torch.")
        others = [job.forced for job in jobs([case], [name], device) if job.kind == "attention" and job.forced]
        for forced in others:
            with forced.use():
                work()
                taken = milliseconds(work, device, 5)
            work()
            default = milliseconds(work, device, 5)
            row: Row = {"layer": layer.name, "T": length, "kernel": forced.kernel, "config": str(forced.config)}
            yield row | {"ms": taken, "ms_default": default, "over_default": taken / default}
        report(f"{layer.name}: {len(others)} further configurations measured")
