"""The definition of fastgate in NumPy: the same functions, the same signatures, readable as the textbook.

rnn.py lstm.py gru.py    a cell: equations forward, and backward with the number of the line undone
leaky.py memory.py       two more
lstm_norm.py gru_norm.py the same with layer normalisation, norm.py
sequence.py              a step run over time
clip.py loss.py          clipping in place; softmax cross-entropy

It computes in float32, float64 and np.longdouble, whichever it is given.
"""

from fastgate.reference.clip import clip_grad_norm, clip_grad_value, clip_norm_each
from fastgate.reference.gru import (
    gru_backward,
    gru_forward,
    gru_ragged_backward,
    gru_ragged_forward,
    gru_step_backward,
    gru_step_forward,
)
from fastgate.reference.gru_norm import (
    gru_norm_backward,
    gru_norm_forward,
    gru_norm_ragged_backward,
    gru_norm_ragged_forward,
    gru_norm_step_backward,
    gru_norm_step_forward,
)
from fastgate.reference.leaky import (
    leaky_backward,
    leaky_forward,
    leaky_ragged_backward,
    leaky_ragged_forward,
    leaky_step_backward,
    leaky_step_forward,
)
from fastgate.reference.loss import softmax_cross_entropy
from fastgate.reference.lstm import (
    lstm_backward,
    lstm_forward,
    lstm_ragged_backward,
    lstm_ragged_forward,
    lstm_step_backward,
    lstm_step_forward,
)
from fastgate.reference.lstm_norm import (
    lstm_norm_backward,
    lstm_norm_forward,
    lstm_norm_ragged_backward,
    lstm_norm_ragged_forward,
    lstm_norm_step_backward,
    lstm_norm_step_forward,
)
from fastgate.reference.memory import (
    memory_backward,
    memory_forward,
    memory_ragged_backward,
    memory_ragged_forward,
    memory_step_backward,
    memory_step_forward,
)
from fastgate.reference.rnn import (
    rnn_backward,
    rnn_forward,
    rnn_ragged_backward,
    rnn_ragged_forward,
    rnn_step_backward,
    rnn_step_forward,
)

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
    "clip_grad_norm", "clip_grad_value", "clip_norm_each",
    "softmax_cross_entropy",
]  # fmt: skip
