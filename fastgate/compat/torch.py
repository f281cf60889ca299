"""PyTorch's recurrent modules on fastgate's kernels: one line in front of a training loop.

    from fastgate.compat.torch import accelerate
    accelerate(model)           # every nn.LSTM, nn.GRU, nn.RNN and cell of the model, in place; restore(model) undoes it

LSTM, GRU, RNN, LSTMCell, GRUCell, RNNCell are subclasses of those of torch.nn. Constructors, parameters, state_dict, repr,
pickling, shapes and errors are torch's; forward and its gradients are fastgate's (equations: fastgate.lstm_forward, its Wr
for proj_size, gru_forward with reset="after", rnn_forward), for plain strided CPU tensors that are all float32 or all float64.
torch's own forward runs, with torch's results and errors, on other devices, dtypes, layouts and subclasses of Tensor, and

- for an axis of size 0, and for arguments that torch refuses;
- under autocast, torch.compile, torch.export, torch.jit.trace and script, torch.func (vmap, grad, jvp, ...), forward-mode AD,
  dispatch modes (FakeTensorMode, FlopCounterMode, selective checkpointing, ...);
- in backward, for gradients that shall have gradients themselves (create_graph=True), and for batches of them
  (is_grads_batched=True, torch.autograd.functional.jacobian with vectorize=True).

Results are those of torch.nn within rounding, with the same dropout under the same torch.manual_seed, in the same memory order.
Tensors are shared with NumPy, not copied. Backward computes the gradients of those inputs and parameters that require one.
What it needs is kept as torch keeps it: until backward, and not at all under torch.no_grad(). It must not be written into
meanwhile, which is noticed as by torch. Activation checkpointing and hooks on saved tensors make backward run forward again.

Threads: fastgate has its own, fastgate.set_num_threads; torch.set_num_threads sets those of torch's operators. The two use the
CPUs in turn, so each may have all of them.
"""

import warnings
from typing import Any, TypeVar

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastgate.compat.torch needs PyTorch: pip install 'fastgate[torch]'") from error

from torch import nn
from torch.nn.utils import parametrize

from fastgate.compat._torch_modules import Cell, Layers, torchs

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "accelerate", "restore"]

Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Let fastgate compute every nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell of `model`; returns `model`.

    The modules stay the objects that they are; only their class changes. So parameters, hooks, modes and whatever refers to a
    module (optimisers, tied modules, other models) stay as they are. Left to torch, with a warning that says why: subclasses,
    whose forward may be their own; parametrized modules (accelerate first, then parametrize). `model` may itself be a recurrent
    module. Anything but a torch.nn.Module is a TypeError.
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

    For tools that look for torch's own classes (torch.ao.quantization, torch.fx), and to pickle a whole model for a machine
    without fastgate; a state_dict needs neither. Subclasses stay as they are. Anything but a torch.nn.Module is a TypeError.
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
    return None


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
