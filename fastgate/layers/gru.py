"""Layers of gated recurrent units."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from fastgate.gru import GRUCell, GRUForward, gru_backward, gru_forward, gru_step_forward
from fastgate.layers._layer import Functions, PlainLayer
from fastgate.layers._types import Delays, Period, Rng
from fastgate.reference.gru import GATES, OPTIONS


class GRU(PlainLayer[GRUForward[Any]]):
    """Layers of gated recurrent units, one upon the other, in one direction or both.

    Axes batch first: x (N, T, D), h (N, T, output_size). Gate order "rzn"; z keeps h_{t-1} unless update="new". Weights
    multiply from the right. In each layer and direction

        r, z = sigmoid(a_r), sigmoid(a_z)                       a = x_t Wx + h_{t-1} Wh + b + bh, blocks a_r a_z
        n = tanh(x_t Wxn + b_n + r * (h_{t-1} Whn + bh_n))      reset="after" (PyTorch, Keras, cuDNN)
        n = tanh(x_t Wxn + b_n + (r * h_{t-1}) Whn + bh_n)      reset="before" (Cho et al. 2014; the textbook formula)
        h_t = (1 - z) * n + z * h_{t-1}                         update="old"
        h_t = z * n + (1 - z) * h_{t-1}                         update="new"

    input_size, hidden_size : D, H
    num_layers : the output of a layer is the x of the next one.
    bidirectional : each layer runs over the sequence from both ends. merge : "concat" (output_size 2H), "sum", "mean" or "mul"
        makes one output of the two.
    dropout : the probability that a value between two layers becomes 0 in training; the others are divided by 1 - dropout.
    recurrent_dropout : the probability that a value of h_{t-1} becomes 0 where it meets Wh, in training; one mask for all steps
        of a sequence, in each layer and direction, the other values divided by 1 - recurrent_dropout (Gal and Ghahramani 2016)
    zoneout_h : the probability that a unit keeps its h at a step, in training; after it, the share that it keeps (Krueger et
        al. 2017)
    delays : integers >= 1 that rise, or None: skip connections through time. Wh meets h of so many steps ago, Wh (K, H, 3H) has
        a matrix for each, and states h are (…, N, d, H), those of the last d = delays[-1] steps, oldest first
    period : an integer >= 1, or one for each of the H units, or None: unit j moves at the steps t where t % period[j] == 0 and
        holds in between, in all layers and directions; t counts the steps of a row in the order in which they run
    b, bh : whether there is an input bias, a recurrent bias. bh None: True with reset="after", where b_n and bh_n are different
        things; False with reset="before", where all that counts is their sum.
    gate_order : a permutation of "rzn", the order of the 3 blocks of H columns in all weights and their gradients
    reset : "after" or "before" the candidate's recurrent product. update : "old" or "new", what z weighs
    candidate : "tanh", or "sigmoid" for n = sigmoid(…). grad_clip : as in gru_forward
    dtype : float32 or float64, that of all arrays
    rng : a numpy Generator, a seed, or None: draws the weights, and the masks of dropout and zoneout where forward is given no
        other

    Weights are arrays of one flat array, in this order: layer by layer, the forward direction before the reverse one,

        Wx0 (D, 3H)    Wh0 (H, 3H)    b0 (3H,)    bh0 (3H,)    Wx0_reverse …    Wx1 (output_size, 3H) …

    without gaps. `parameters` is that array and `weights` the views by name, `gradients` and `grads` the same for the
    gradients: clipping, an optimiser and a sum over machines are one call on one array. Fresh weights, gate by gate: Wx uniform
    (Glorot and Bengio 2010), Wh orthogonal (Saxe et al. 2014), biases 0. Orthogonal matrices come from NumPy's LAPACK, whose
    last bits may differ between machines.

    forward, backward : whole sequences. step, state, reset : streams, one step at a time.
    state_dict, load_state_dict, save, load : weights as arrays, as a file. A layer pickles and copies, with gradients, states
    and generator.

    Sizes that are no integers > 0 and options that do not exist are a ValueError or TypeError that names the argument, sizes
    that no memory holds an OverflowError or MemoryError. Cho et al. (2014), arXiv:1406.1078.
    """

    _cell, _gates, _choices = "gru", GATES, {"gate_order": None, **OPTIONS, "grad_clip": float}
    _functions = Functions(gru_forward, gru_backward, gru_step_forward, GRUForward, GRUCell)

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, bidirectional: bool = False,
        merge: Literal["concat", "sum", "mean", "mul"] = "concat", dropout: float = 0.0, recurrent_dropout: float = 0.0,
        zoneout_h: float = 0.0, delays: Delays = None, period: Period = None, b: bool = True, bh: bool | None = None,
        gate_order: str = "rzn", reset: Literal["after", "before"] = "after", update: Literal["old", "new"] = "old",
        candidate: Literal["tanh", "sigmoid"] = "tanh", grad_clip: float | None = None, dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ):  # fmt: skip
        bh = isinstance(reset, str) and reset == "after" if bh is None else bh
        config = self._judged(
            input_size, hidden_size, num_layers, bidirectional, merge, dropout, b, bh, dtype,
            recurrent_dropout=recurrent_dropout, zoneout_h=zoneout_h, delays=delays, period=period, gate_order=gate_order,
            reset=reset, update=update, candidate=candidate, grad_clip=grad_clip,
        )  # fmt: skip
        self._build(config, rng)
        self._draw()

    def _implied(self) -> dict[str, Any]:
        return {"bh": self._config["reset"] == "after"}
