"""The recurrent engine that NumPy never had.

rnn.py lstm.py gru.py     the cells: a step, whole sequences, ragged batches, forward and backward; prepared cells
leaky.py memory.py        leaky units, a memory cell without gates: in the same way
lstm_norm.py gru_norm.py  the same with layer normalisation
clip.py                   gradient clipping, in place
loss.py                   softmax cross-entropy
masks.py                  masks of dropout and zoneout, time constants of leaky units: drawn
threads.py                how many threads a call may use
config.py                 what this build and this machine have
reference/                the definition of all of it in NumPy: the same names, the same signatures
_arguments/               judges every argument    _call.py  allocates, calls    _kernels  csrc/ behind Cython
_cell.py                  what the prepared cells share
Wings that stand on these functions, imported when they are entered:
layers/                   RNN, LSTM, GRU, Leaky, Memory, LSTMNorm, GRUNorm: stacks, directions, parameters in one buffer
streams.py                StreamPool: live streams
weights/                  import and export       compat/   drop-ins for code that others wrote
check/                    what a cell computes, and whether it is right                  parallel.py  more than one machine
decode.py                 greedy, sampled, beam search; scheduled teacher forcing       structures/  layers put together
flow/                     how gradients flow through time: norms, Jacobians, gates, Omega, a report on one page
"""

import importlib
from typing import TYPE_CHECKING

from fastgate import _built  # noqa: F401
from fastgate._version import __version__
from fastgate.clip import clip_grad_norm, clip_grad_value, clip_norm_each
from fastgate.config import get_config, show_config
from fastgate.gru import (
    GRUCell,
    gru_backward,
    gru_forward,
    gru_ragged_backward,
    gru_ragged_forward,
    gru_step_backward,
    gru_step_forward,
)
from fastgate.gru_norm import (
    GRUNormCell,
    gru_norm_backward,
    gru_norm_forward,
    gru_norm_ragged_backward,
    gru_norm_ragged_forward,
    gru_norm_step_backward,
    gru_norm_step_forward,
)
from fastgate.leaky import (
    LeakyCell,
    leaky_backward,
    leaky_forward,
    leaky_ragged_backward,
    leaky_ragged_forward,
    leaky_step_backward,
    leaky_step_forward,
)
from fastgate.loss import softmax_cross_entropy
from fastgate.lstm import (
    LSTMCell,
    lstm_backward,
    lstm_forward,
    lstm_ragged_backward,
    lstm_ragged_forward,
    lstm_step_backward,
    lstm_step_forward,
)
from fastgate.lstm_norm import (
    LSTMNormCell,
    lstm_norm_backward,
    lstm_norm_forward,
    lstm_norm_ragged_backward,
    lstm_norm_ragged_forward,
    lstm_norm_step_backward,
    lstm_norm_step_forward,
)
from fastgate.masks import draw_alpha, draw_dropout_mask, draw_zoneout_mask
from fastgate.memory import (
    MemoryCell,
    memory_backward,
    memory_forward,
    memory_ragged_backward,
    memory_ragged_forward,
    memory_step_backward,
    memory_step_forward,
)
from fastgate.rnn import (
    RNNCell,
    rnn_backward,
    rnn_forward,
    rnn_ragged_backward,
    rnn_ragged_forward,
    rnn_step_backward,
    rnn_step_forward,
)
from fastgate.threads import get_num_threads, num_threads, set_num_threads

if TYPE_CHECKING:
    from fastgate import check, compat, decode, flow, layers, parallel, streams, structures, weights  # noqa: F401
    from fastgate.layers import GRU, LSTM, RNN, GRUNorm, Leaky, LSTMNorm, Memory
    from fastgate.streams import StreamPool

_WINGS = dict.fromkeys(("RNN", "LSTM", "GRU", "Leaky", "Memory", "LSTMNorm", "GRUNorm"), "layers") | {"StreamPool": "streams"}
_MODULES = ("check", "compat", "decode", "flow", "layers", "parallel", "streams", "structures", "weights")


def __getattr__(name):
    if name in _WINGS:
        return getattr(importlib.import_module(f"fastgate.{_WINGS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"fastgate.{name}")
    raise AttributeError(f"module 'fastgate' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_WINGS, *_MODULES})


__all__ = [
    "rnn_forward", "rnn_backward", "rnn_ragged_forward", "rnn_ragged_backward", "rnn_step_forward", "rnn_step_backward",
    "lstm_forward", "lstm_backward", "lstm_ragged_forward", "lstm_ragged_backward", "lstm_step_forward", "lstm_step_backward",
    "gru_forward", "gru_backward", "gru_ragged_forward", "gru_ragged_backward", "gru_step_forward", "gru_step_backward",
    "leaky_forward", "leaky_backward", "leaky_ragged_forward", "leaky_ragged_backward", "leaky_step_forward",
    "leaky_step_backward",
    "memory_forward", "memory_backward", "memory_ragged_forward", "memory_ragged_backward", "memory_step_forward",
    "memory_step_backward",
    "lstm_norm_forward", "lstm_norm_backward", "lstm_norm_ragged_forward", "lstm_norm_ragged_backward",
    "lstm_norm_step_forward", "lstm_norm_step_backward",
    "gru_norm_forward", "gru_norm_backward", "gru_norm_ragged_forward", "gru_norm_ragged_backward",
    "gru_norm_step_forward", "gru_norm_step_backward",
    "RNNCell",
    "LSTMCell",
    "GRUCell",
    "LeakyCell",
    "MemoryCell",
    "LSTMNormCell",
    "GRUNormCell",
    "RNN", "LSTM", "GRU", "Leaky", "Memory", "LSTMNorm", "GRUNorm",
    "StreamPool",
    "clip_grad_norm", "clip_grad_value", "clip_norm_each",
    "softmax_cross_entropy",
    "draw_dropout_mask", "draw_zoneout_mask", "draw_alpha",
    "set_num_threads", "get_num_threads", "num_threads",
    "get_config", "show_config",
    "__version__",
]  # fmt: skip
