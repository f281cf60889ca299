"""PyTorch's recurrent modules on fastgate's kernels: one line in front of a training loop.

    from fastgate.compat.torch import accelerate
    accelerate(model)                      # every nn.LSTM, nn.GRU, nn.RNN and cell of the model, in place; restore(model) undoes it

LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell are subclasses of those of torch.nn. Constructors, parameters, state_dict, repr,
pickling, shapes and errors are torch's; forward and its gradients are fastgate's, for plain strided CPU tensors, all float32 or
all float64. torch's own forward runs, with torch's results and errors, where that is not given, and

    for proj_size > 0, for an axis of size 0, and for arguments that torch refuses
    under autocast, torch.compile, torch.export, torch.jit.script and trace, torch.func (vmap, grad, jvp, ...), forward-mode AD
        and dispatch modes (FakeTensorMode, FlopCounterMode, selective checkpointing, ...)
    for gradients that shall have gradients themselves (create_graph=True)

Results are those of torch.nn within rounding, with the same dropout under the same torch.manual_seed and the same memory order.
Tensors are shared with NumPy, not copied. In eval mode the gradients are kept as in torch: use torch.no_grad() to keep nothing.

Threads: fastgate has its own, fastgate.set_num_threads; torch.set_num_threads sets those of torch's operators. The two use the
CPUs in turn, so each may have all of them.
"""

import warnings
from typing import Any, TypeVar

try:
    import torch
except ImportError as error:
    raise ImportError("fastgate.compat.torch needs PyTorch: pip install 'fastgate[torch]'") from error

from torch import nn
from torch.nn.utils import parametrize

from fastgate.compat._torch_modules import Cell, Layers, torchs

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "accelerate", "restore"]

Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Let fastgate compute every nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell and nn.RNNCell in `model`; returns `model`.

    The modules stay the objects that they are and change their class only: parameters, their order, hooks, modes and everything
    that refers to them (optimisers, tied modules, other models) stay as they are. A module that is a subclass with a forward of
    its own, is parametrized, or has proj_size > 0, stays as it is, with a warning that says why; to have both, accelerate first,
    parametrize then. `model` may itself be such a module. Anything but a torch.nn.Module is a TypeError.
    """
    for name, module in _named_modules(model):
        if reason := _reason_to_leave(module):
            kind = type(module).__name__
            warnings.warn(f"{name or 'model'}: this {kind} is left to torch, for {reason}", stacklevel=2)
        elif type(module) in _FASTGATE:
            module.__class__ = _FASTGATE[type(module)]
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`: every module of fastgate's six classes becomes torch's own, in place; returns `model`.

    For what looks for torch's classes by their names: torch.ao.quantization, torch.fx, or to pickle a model for a machine without
    fastgate. state_dicts need no such care. Subclasses are left as they are. Anything but a torch.nn.Module is a TypeError.
    """
    for _, module in _named_modules(model):
        module.__class__ = torchs(module)
    return model


def _named_modules(model: Any) -> list[tuple[str, Any]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return list(model.named_modules())


def _reason_to_leave(module: nn.Module) -> str | None:
    if not isinstance(module, nn.RNNBase | nn.RNNCellBase) or isinstance(module, Layers | Cell):
        return None
    if parametrize.is_parametrized(module):
        return "it is parametrized; accelerate first, parametrize then"
    if type(module) not in _FASTGATE:
        return "it is a subclass, whose forward may be its own"
    return "fastgate has no proj_size" if getattr(module, "proj_size", 0) else None


class LSTM(Layers, nn.LSTM):
    """torch.nn.LSTM, computed by fastgate."""

    _cell, _torch = "lstm", nn.LSTM


class GRU(Layers, nn.GRU):
    """torch.nn.GRU, computed by fastgate."""

    _cell, _torch = "gru", nn.GRU


class RNN(Layers, nn.RNN):
    """torch.nn.RNN, computed by fastgate."""

    _cell, _torch = "rnn", nn.RNN


class LSTMCell(Cell, nn.LSTMCell):
    """torch.nn.LSTMCell, computed by fastgate."""

    _cell, _torch = "lstm", nn.LSTMCell


class GRUCell(Cell, nn.GRUCell):
    """torch.nn.GRUCell, computed by fastgate."""

    _cell, _torch = "gru", nn.GRUCell


class RNNCell(Cell, nn.RNNCell):
    """torch.nn.RNNCell, computed by fastgate."""

    _cell, _torch = "rnn", nn.RNNCell


_FASTGATE: dict[type, type] = {ours._torch: ours for ours in (LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell)}
