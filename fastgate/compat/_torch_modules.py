"""The forward of torch.nn's recurrent modules: layers, directions, dropout, packed sequences around one direction of a layer.

Whatever does not fit goes to torch's own forward, which computes it or words the error.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

from fastgate.compat._torch_function import Call, run


def torchs(module: nn.Module) -> type:
    """torch's class of a module of fastgate.compat.torch; the class of any other module, subclasses included."""
    return vars(type(module)).get("_torch", type(module))


def shared(*tensors: Any) -> bool:
    """Whether fastgate can take the tensors as they are, and nothing but a plain call of torch's operators is asked for."""
    if (
        torch.is_autocast_enabled("cpu")
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
    ):
        return False
    if not all(type(t) in (Tensor, nn.Parameter) and t.is_cpu and t.layout is torch.strided for t in tensors):
        return False
    dtype = tensors[0].dtype
    return dtype in (torch.float32, torch.float64) and all(t.dtype is dtype and t.numel() > 0 for t in tensors)


def _given(cell: str, hx: Any) -> tuple[Any, ...]:
    """The initial states that were given; (None,), which is no tensor, for what an LSTM cannot take."""
    if hx is None:
        return ()
    if cell != "lstm":
        return (hx,)
    return tuple(hx) if isinstance(hx, tuple | list) and len(hx) == 2 else (None,)


def _in_order(order: Tensor | None, states: Sequence[Tensor]) -> Sequence[Tensor]:
    """States (..., N, H) with their rows in another order."""
    return states if order is None else [state.index_select(1, order) for state in states]


class Layers(nn.RNNBase):
    """What LSTM, GRU and RNN share."""

    _cell: str

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's own."""
        if torch.compiler.is_compiling():
            return super().forward(input, hx)
        self._update_flat_weights()
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        states = _given(self._cell, hx)
        if not shared(x, *states, *self._flat_weights) or not self._fits(input, x, states):
            return super().forward(input, hx)
        h: Any
        if packed:
            options = {"batch_sizes": input.batch_sizes.numpy()}
            h, finals = self._run("ragged_", x, _in_order(input.sorted_indices, states), options)
            h, finals = PackedSequence(h, *input[1:]), _in_order(input.unsorted_indices, finals)
        elif x.dim() == 2:
            h, finals = self._run("", x.unsqueeze(1), [state.unsqueeze(1) for state in states], {})
            h, finals = h.squeeze(1), [final.squeeze(1) for final in finals]
        else:
            h, finals = self._run("", x.transpose(0, 1) if self.batch_first else x, states, {})
            h = h.transpose(0, 1) if self.batch_first else h
        return h, tuple(finals) if self._cell == "lstm" else finals[0]

    def _fits(self, input: Any, x: Tensor, states: Sequence[Tensor]) -> bool:
        """Whether torch would accept the shapes."""
        if x is not input:
            right, N = x.dim() == 2, [int(input.batch_sizes[0])]
        else:
            right, N = x.dim() in (2, 3), [x.shape[0 if self.batch_first else 1]] if x.dim() == 3 else []
        rows, sizes = self.num_layers * (1 + self.bidirectional), (self.proj_size or self.hidden_size, self.hidden_size)
        expected = [(rows, *N, size) for size in sizes]
        return right and x.shape[-1] == self.input_size and all(s.shape == e for s, e in zip(states, expected, strict=False))

    def _run(
        self, kind: str, x: Tensor, states: Sequence[Tensor], options: dict[str, Any]
    ) -> tuple[Tensor, Sequence[Tensor]]:  # fmt: skip
        """Layer by layer, direction by direction; h, and the final states h_T or h_T, c_T, each (layers * directions, N, H or
        P)."""
        if self._cell == "rnn":
            options["activation"] = self.mode.removeprefix("RNN_").lower()
        size = (4 if self.bias else 2) + (self.proj_size > 0)
        weights: Any = [self._flat_weights[k : k + size] for k in range(0, len(self._flat_weights), size)]
        finals: list[list[Tensor]] = []
        for layer in range(self.num_layers):
            outputs = []
            for reverse in range(1 + self.bidirectional):
                k = len(finals)
                call = Call(self._cell, kind, options | {"reverse": bool(reverse)})
                h, *final = run(call, x, [state[k] for state in states], weights[k])
                outputs.append(h)
                finals.append(final)
            x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if layer + 1 < self.num_layers:
                x = nn.functional.dropout(x, self.dropout, self.training)
        return x, [torch.stack(state) for state in zip(*finals, strict=True)]

    def __prepare_scriptable__(self) -> nn.Module:
        """torch.jit.script compiles torch's own forward."""
        module = copy.copy(self)
        module.__class__ = torchs(self)
        return module


class Cell(nn.RNNCellBase):
    """What LSTMCell, GRUCell and RNNCell share."""

    _cell: str

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's own."""
        if torch.compiler.is_compiling():
            return super().forward(input, hx)
        states = _given(self._cell, hx)
        weights: list[Any] = [self.weight_ih, self.weight_hh, *([self.bias_ih, self.bias_hh] if self.bias else [])]
        activation = getattr(self, "nonlinearity", "tanh")
        if not shared(input, *states, *weights) or not self._fits(input, states) or activation not in ("tanh", "relu"):
            return super().forward(input, hx)
        call = Call(self._cell, "step_", {"activation": activation} if self._cell == "rnn" else {})
        if input.dim() == 2:
            found = run(call, input, states, weights)
        else:
            found = tuple(state[0] for state in run(call, input[None], [state[None] for state in states], weights))
        return found if self._cell == "lstm" else found[0]

    def _fits(self, input: Tensor, states: Sequence[Tensor]) -> bool:
        """Whether torch would accept the shapes."""
        expected = (*input.shape[:-1], self.hidden_size)
        return input.dim() in (1, 2) and input.shape[-1] == self.input_size and all(s.shape == expected for s in states)

    __prepare_scriptable__ = Layers.__prepare_scriptable__
