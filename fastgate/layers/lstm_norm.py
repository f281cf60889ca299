"""Layers of long short-term memory with layer normalisation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import DTypeLike

from fastgate import _arguments
from fastgate.layers._layer import Functions, LayerWithC
from fastgate.layers._types import Delays, Period, Rng
from fastgate.lstm_norm import LSTMNormCell, LSTMNormForward, lstm_norm_backward, lstm_norm_forward, lstm_norm_step_forward
from fastgate.reference.lstm_norm import GATES


class LSTMNorm(LayerWithC[LSTMNormForward[Any]]):
    """Layers of long short-term memory with layer normalisation, one upon the other, in one direction or both.

    Axes batch first: x (N, T, D), h (N, T, output_size). Gate order "ifgo". Weights multiply from the right. In each layer and
    direction, with a normalisation N over the numbers of a row

        N(v) = (v - mean(v)) / sqrt(variance(v) + eps)
        a = gain_x * N(x_t Wx) + gain_h * N(h_{t-1} Wh) + b + bh        blocks a_i a_f a_g a_o
        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);   g = tanh(a_g)
        c_t = f * c_{t-1} + i * g
        h_t = o * tanh(gain_c * N(c_t) + beta_c)                        h_t = o * tanh(c_t) with gain_c=False

    input_size, hidden_size : D, H
    num_layers : the output of a layer is the x of the next one.
    bidirectional : each layer runs over the sequence from both ends. merge : "concat" (output_size 2H), "sum", "mean" or "mul"
        makes one output of the two.
    dropout : the probability that a value between two layers becomes 0 in training; the others are divided by 1 - dropout.
    recurrent_dropout : the probability that a value of h_{t-1} becomes 0 where it meets Wh, in training; one mask for all steps
        of a sequence, in each layer and direction, the other values divided by 1 - recurrent_dropout (Gal and Ghahramani 2016)
    zoneout_h, zoneout_c : the probability that a unit keeps its h, its c at a step, in training; after it, the share that it
        keeps (Krueger et al. 2017)
    delays : integers >= 1 that rise, or None: skip connections through time. Wh meets h of so many steps ago, Wh (K, H, 4H) has
        a matrix for each, and states h are (…, N, d, H), those of the last d = delays[-1] steps, oldest first
    period : an integer >= 1, or one for each of the H units, or None: unit j moves at the steps t where t % period[j] == 0 and
        holds in between, in all layers and directions; t counts the steps of a row in the order in which they run. Not beside
        gain_c.
    b, bh : whether there is an input bias, a recurrent bias
    gain_c : whether c is normalised, with weights gain_c0 and beta_c0 (H,)
    gate_order : a permutation of "ifgo", the order of the 4 blocks of H columns in all weights and their gradients
    eps : a number > 0, added to each variance. grad_clip : as in lstm_norm_forward
    dtype : float32 or float64, that of all arrays
    rng : a numpy Generator, a seed, or None: draws the weights, and the masks of dropout and zoneout where forward is given no
        other

    Weights are arrays of one flat array, in this order: layer by layer, the forward direction before the reverse one,

        Wx0 (D, 4H)    Wh0 (H, 4H)    b0 (4H,)    bh0 (4H,)    gain_x0 (4H,)    gain_h0 (4H,)    Wx0_reverse …
        Wx1 (output_size, 4H) …    gain_c0 (H,) …    beta_c0 (H,) …

    without gaps. `parameters` is that array and `weights` the views by name, `gradients` and `grads` the same for the
    gradients: clipping, an optimiser and a sum over machines are one call on one array. Fresh weights, gate by gate: Wx uniform
    (Glorot and Bengio 2010), Wh orthogonal (Saxe et al. 2014), gains 1, beta_c and biases 0 but for that of the forget gate, 1
    (Jozefowicz et al. 2015), in b, or in bh where there is no b. Orthogonal matrices come from NumPy's LAPACK, whose last bits
    may differ between machines.

    forward, backward : whole sequences. step, state, reset : streams, one step at a time.
    state_dict, load_state_dict, save, load : weights as arrays, as a file. A layer pickles and copies, with gradients, states
    and generator.

    Sizes that are no integers > 0 and options that do not exist are a ValueError or TypeError that names the argument, sizes
    that no memory holds an OverflowError or MemoryError. Ba, Kiros and Hinton (2016), "Layer Normalization",
    arXiv:1607.06450.
    """

    _cell, _gates, _gains = "lstm_norm", GATES, ("gain_x", "gain_h")
    _choices: ClassVar = {"gate_order": None, "eps": _arguments.eps, "grad_clip": float}
    _functions = Functions(lstm_norm_forward, lstm_norm_backward, lstm_norm_step_forward, LSTMNormForward, LSTMNormCell)

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, bidirectional: bool = False,
        merge: Literal["concat", "sum", "mean", "mul"] = "concat", dropout: float = 0.0, recurrent_dropout: float = 0.0,
        zoneout_h: float = 0.0, zoneout_c: float = 0.0, delays: Delays = None, period: Period = None, b: bool = True,
        bh: bool = False, gain_c: bool = True, gate_order: str = "ifgo", eps: float = 1e-5, grad_clip: float | None = None,
        dtype: DTypeLike = np.float32, rng: Rng = None,
    ):  # fmt: skip
        config = self._judged(
            input_size, hidden_size, num_layers, bidirectional, merge, dropout, b, bh, dtype,
            recurrent_dropout=recurrent_dropout, zoneout_h=zoneout_h, zoneout_c=zoneout_c, delays=delays, period=period,
            gain_c=gain_c, gate_order=gate_order, eps=eps, grad_clip=grad_clip,
        )  # fmt: skip
        self._build(config, rng)
        self._draw()

    @classmethod
    def _judge_own(cls, config: dict[str, Any], options: dict[str, Any]) -> None:
        config["gain_c"] = _arguments.flag("gain_c", options.pop("gain_c"))
        if config["gain_c"] and config["period"] is not None:
            raise ValueError("period: expected None beside gain_c, got one; pass gain_c=False?")

    @classmethod
    def _vectors(cls, config: dict[str, Any]) -> dict[str, int]:
        return super()._vectors(config) | ({"gain_c": 1, "beta_c": 1} if config["gain_c"] else {})
