"""Decoding a case's tokens one at a time, on CUDA by replaying one graph."""

from typing import Any

import torch
from torch import Tensor

from vqkernels import DecodeState, VQState, decode_step
from vqkernels.gpu_check.cases import Tensors


class Slot:
    """The memory that one token after the other is put into, as a graph reads it."""

    def __init__(self, given: Tensors) -> None:
        self._given = given
        self._by_head = {name: getattr(given, name)[:, :, 0].clone() for name in ("q_BHTK", "v_BGTV", "code_BGT")}
        flags = {name: getattr(given, name) for name in ("mask_BT", "doc_start_BT")}
        self._flags = {name: flag[:, 0].clone() for name, flag in flags.items() if flag is not None}

    def put(self, position: int) -> None:
        """Make the token at this place of the case the next one."""
        for name, tensor in self._by_head.items():
            tensor.copy_(getattr(self._given, name)[:, :, position])
        for name, flag in self._flags.items():
            flag.copy_(getattr(self._given, name)[:, position])

    def step(self, state: DecodeState) -> Tensor:
        """Decode it: [B, H, V]."""
        return decode_step(
            self._by_head["q_BHTK"],
            self._by_head["v_BGTV"],
            self._by_head["code_BGT"],
            self._given.codebook_GSK,
            state,
            bias_u_HK=self._given.bias_u_HK,
            bias_w_HK=self._given.bias_w_HK,
            rel_key_GMK=self._given.rel_key_GMK,
            mask_B=self._flags.get("mask_BT"),
            doc_start_B=self._flags.get("doc_start_BT"),
            backend="triton",
        )

    def captured(self, state: DecodeState) -> tuple[Any, Tensor]:
        """A CUDA graph of one step and the tensor its output lands in. Nothing has been decoded when it returns."""
        spare = DecodeState(**{name: one.clone() for name, one in vars(state).items()})
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(spare)  # compiles
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.step(state)
        return graph, out


def decoded(given: Tensors, state: VQState, start: int, stop: int) -> tuple[Tensor, int]:
    """Outputs [B, H, n, V] of the tokens `start` to `stop` - 1 after `state`, and the position then."""
    slot, held, outs = Slot(given), DecodeState.from_state(state), []
    graph, out = slot.captured(held) if given.q_BHTK.is_cuda else (None, torch.empty(0))
    for place in range(start, stop):
        slot.put(place)
        if graph is None:
            out = slot.step(held)
        else:
            graph.replay()
        outs.append(out.clone())
    return torch.stack(outs, dim=2), int(held.position.item())
