"""Shared by all Triton kernels: tile configurations, the rule that picks one, launching, and recording launches.

A kernel's configuration depends only on the device and the operands' width, never on a timing: every rank, every run
and every resume computes with the same tiles and so to the same bits (decision 0010). The order of configurations
comes from measurements with `python -m vqkernels.gpu_check`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from vqkernels.errors import BackendUnavailableError

# Compute capability times ten, and the shared memory a program may use there (bytes). 86 is used for every chip with
# little of it: Ampere and Ada cards without HBM, and consumer Blackwell.
SHARED_MEMORY = {80: 166_912, 86: 101_376, 90: 232_448, 100: 232_448}
_LARGEST_INTERPRETED_TILE = 32


@dataclass(frozen=True)
class Config:
    """Tile sizes and launch options, for operands of `bits` 16 or 32 and at most `width` columns on `targets`."""

    tiles: tuple[tuple[str, int], ...]
    num_warps: int
    num_stages: int
    bits: int
    targets: tuple[int, ...] = (80, 86, 90, 100)
    width: int | None = None  # None: any

    def serves(self, bits: int, width: int, target: int) -> bool:
        """Whether it is for operands of these bits and columns on the target."""
        return self.bits == bits and target in self.targets and (self.width is None or width <= self.width)

    def __str__(self) -> str:
        tiles = " ".join(f"{name}={size}" for name, size in self.tiles)
        return f"{tiles} warps={self.num_warps} stages={self.num_stages}"


def config(
    bits: int,
    num_warps: int,
    num_stages: int,
    targets: tuple[int, ...] = (80, 86, 90, 100),
    /,
    *,
    width: int | None = None,
    **tiles: int,
) -> Config:
    """Short for `Config`: config(16, 8, 2, BM=128, BN=64)."""
    return Config(tuple(tiles.items()), num_warps, num_stages, bits, targets, width)


class Launch(NamedTuple):
    """One launch as recorded: enough to compile the same kernel ahead of time."""

    kernel: "Kernel"
    config: Config
    target: int
    arguments: tuple[Any, ...]  # tensors, ints, floats or None, in the kernel's order
    constants: dict[str, Any]
    width: int


class _Mode:
    """What `forced` and `recorded` have switched on. Not for several threads."""

    forced: dict[str, Config] = {}  # noqa: RUF012 - replaced as a whole, never changed
    launches: list[Launch] | None = None
    target: int = 90


@dataclass(frozen=True)
class Kernel:
    """A jitted function and its configurations; the first that suits device and dtype is the one used.

    The function takes `arguments` (pointers and run-time ints) in order, then compile-time constants by name: those
    given to `launch` and the tiles of the configuration.
    """

    fn: Any
    configs: tuple[Config, ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.fn.__name__)

    @property
    def interpreted(self) -> bool:
        """Whether TRITON_INTERPRET=1 was in the environment when the function was decorated."""
        return not isinstance(self.fn, triton.JITFunction)

    def choose(self, dtype: torch.dtype, target: int, width: int = 0) -> Config:
        """The configuration for operands of `dtype` and `width` columns on `target`.

        Raises BackendUnavailableError if there is none.
        """
        if self.name in _Mode.forced:
            return _Mode.forced[self.name]
        for one in self.configs:
            if one.serves(8 * dtype.itemsize, width, target):
                return _small(one) if self.interpreted else one
        raise BackendUnavailableError(
            f"backend: got 'triton', whose {self.name} has no tiles for {dtype} on sm_{target}"
        )

    def launch(
        self,
        grid: Callable[[dict[str, int]], tuple[int, ...]],
        arguments: tuple[Any, ...],
        *,
        dtype: torch.dtype,
        width: int = 0,
        **constants: Any,
    ) -> None:
        """Run over `grid(tiles)` programs. `dtype` is that of the operands of the kernel's products.

        `width` is how many columns of them a program holds at once, for kernels whose tiles depend on it.
        """
        device = next(one.device for one in arguments if isinstance(one, Tensor))
        target = _Mode.target if _Mode.launches is not None else device_target(device)
        chosen = self.choose(dtype, target, width)
        tiles = dict(chosen.tiles)
        if _Mode.launches is not None:
            _Mode.launches.append(Launch(self, chosen, target, arguments, constants, width))
            return
        programs = grid(tiles)
        if 0 in programs:
            return
        options = {} if self.interpreted else {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages}
        with torch.cuda.device(device) if device.type == "cuda" else _nothing():
            self.fn[programs](*arguments, **constants, **tiles, **options)


@contextmanager
def forced(kernel: Kernel, chosen: Config) -> Iterator[None]:
    """Use this configuration whatever the device and dtype: to test and to measure each of them."""
    before = _Mode.forced
    _Mode.forced = before | {kernel.name: chosen}
    try:
        yield
    finally:
        _Mode.forced = before


@contextmanager
def recorded(target: int) -> Iterator[list[Launch]]:
    """Run nothing and note every launch, as if on `target`: with tensors on the meta device, at any size."""
    before = _Mode.launches, _Mode.target
    _Mode.launches, _Mode.target = [], target
    try:
        yield _Mode.launches
    finally:
        _Mode.launches, _Mode.target = before


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter: on a CPU, in float32 only, slowly; for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def refusal(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on this device, or None."""
    if interpreting():
        return None
    if device.type != "cuda":
        return f"Triton kernels need a CUDA device, and this is {device.type}"
    if torch.cuda.get_device_properties(device).major < 8:  # properties: torch.compile takes them for constants
        return "Triton kernels need compute capability 8.0 (Ampere) or newer"
    return None


def cdiv(size: int, tile: int) -> int:
    """How many tiles cover the size."""
    return -(-size // tile)


def dot_precision(dtype: torch.dtype) -> str:
    """`input_precision` of tl.dot: float32 as PyTorch's own products have it, TF32 only where the user allowed it."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def device_target(device: torch.device) -> int:
    """The target whose tiles a device takes; an interpreted kernel takes those of sm_90."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) == (8, 0):
        return 80
    return {8: 86, 9: 90, 10: 100}.get(major, 86)


def _small(one: Config) -> Config:
    tiles = tuple((name, min(size, _LARGEST_INTERPRETED_TILE)) for name, size in one.tiles)
    return replace(one, tiles=tiles)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
