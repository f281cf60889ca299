from fastgate.clip import clip_grad_norm, clip_grad_value, clip_norm_each
from fastgate.gru import (
    gru_backward,
    gru_forward,
    gru_ragged_backward,
    gru_ragged_forward,
    gru_step_backward,
    gru_step_forward,
)
from fastgate.gru_norm import (
    gru_norm_backward,
    gru_norm_forward,
    gru_norm_ragged_backward,
    gru_norm_ragged_forward,
    gru_norm_step_backward,
    gru_norm_step_forward,
)
from fastgate.loss import softmax_cross_entropy
from fastgate.lstm import (
    lstm_backward,
    lstm_forward,
    lstm_ragged_backward,
    lstm_ragged_forward,
    lstm_step_backward,
    lstm_step_forward,
)
from fastgate.lstm_norm import (
    lstm_norm_backward,
    lstm_norm_forward,
    lstm_norm_ragged_backward,
    lstm_norm_ragged_forward,
    lstm_norm_step_backward,
    lstm_norm_step_forward,
)
from fastgate.rnn import (
    rnn_backward,
    rnn_forward,
    rnn_ragged_backward,
    rnn_ragged_forward,
    rnn_step_backward,
    rnn_step_forward,
)

# fmt: off
__all__ = [
    "rnn_forward", "rnn_backward", "rnn_ragged_forward", "rnn_ragged_backward", "rnn_step_forward", "rnn_step_backward",
    "lstm_forward", "lstm_backward", "lstm_ragged_forward", "lstm_ragged_backward", "lstm_step_forward", "lstm_step_backward",
    "gru_forward", "gru_backward", "gru_ragged_forward", "gru_ragged_backward", "gru_step_forward", "gru_step_backward",
    "lstm_norm_forward", "lstm_norm_backward", "lstm_norm_ragged_forward", "lstm_norm_ragged_backward",
    "lstm_norm_step_forward", "lstm_norm_step_backward",
    "gru_norm_forward", "gru_norm_backward", "gru_norm_ragged_forward", "gru_norm_ragged_backward",
    "gru_norm_step_forward", "gru_norm_step_backward",
    "clip_grad_norm", "clip_grad_value", "clip_norm_each",
    "softmax_cross_entropy",
]
# fmt: on
