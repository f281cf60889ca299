"""Layers of memory cells without gates."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from fastgate.layers._layer import Functions, LayerWithC
from fastgate.layers._types import Delays, Period, Rng
from fastgate.memory import MemoryCell, MemoryForward, memory_backward, memory_forward, memory_step_forward
from fastgate.reference.memory import GATES, OPTIONS


class Memory(LayerWithC[MemoryForward[Any]]):
    """Layers of memory cells without gates, one upon the other, in one direction or both.

    Axes batch first: x (N, T, D), h (N, T, output_size). Weights multiply from the right. In each layer and direction

        c_t = c_{t-1} + activation(x_t Wx + h_{t-1} Wh + b + bh)
        h_t = tanh(c_t), or with output="identity" h_t = c_t

    A linear self-loop of weight 1, through which a gradient passes unchanged. Nothing forgets: c grows as long as it is given
    something.

    input_size, hidden_size : D, H
    num_layers : the output of a layer is the x of the next one.
    bidirectional : each layer runs over the sequence from both ends. merge : "concat" (output_size 2H), "sum", "mean" or "mul"
        makes one output of the two.
    dropout : the probability that a value between two layers becomes 0 in training; the others are divided by 1 - dropout.
    recurrent_dropout : the probability that a value of h_{t-1} becomes 0 where it meets Wh, in training; one mask for all steps
        of a sequence, in each layer and direction, the other values divided by 1 - recurrent_dropout (Gal and Ghahramani 2016)
    zoneout_h, zoneout_c : the probability that a unit keeps its h, its c at a step, in training; after it, the share that it
        keeps (Krueger et al. 2017)
    delays : integers >= 1 that rise, or None: skip connections through time. Wh meets h of so many steps ago, Wh (K, H, H) has
        a matrix for each, and states h are (…, N, d, H), those of the last d = delays[-1] steps, oldest first
    period : an integer >= 1, or one for each of the H units, or None: unit j moves at the steps t where t % period[j] == 0 and
        holds in between, in all layers and directions; t counts the steps of a row in the order in which they run
    b, bh : whether there is an input bias, a recurrent bias
    output : "tanh" or "identity", h = tanh(c) or h = c
    activation : "tanh", "relu", "sigmoid" or "identity". grad_clip : as in memory_forward
    dtype : float32 or float64, that of all arrays
    rng : a numpy Generator, a seed, or None: draws the weights, and the masks of dropout and zoneout where forward is given no
        other

    Weights are arrays of one flat array, in this order: layer by layer, the forward direction before the reverse one,

        Wx0 (D, H)    Wh0 (H, H)    b0 (H,)    bh0 (H,)    Wx0_reverse …    Wx1 (output_size, H) …

    without gaps. `parameters` is that array and `weights` the views by name, `gradients` and `grads` the same for the
    gradients: clipping, an optimiser and a sum over machines are one call on one array. Fresh weights: Wx uniform (Glorot and
    Bengio 2010), biases and Wh 0, so that at first the loop of weight 1 is all there is, the identity of Le, Jaitly and Hinton
    (2015).

    forward, backward : whole sequences. step, state, reset : streams, one step at a time.
    state_dict, load_state_dict, save, load : weights as arrays, as a file. A layer pickles and copies, with gradients, states
    and generator.

    Sizes that are no integers > 0 and options that do not exist are a ValueError or TypeError that names the argument, sizes
    that no memory holds an OverflowError or MemoryError. Hochreiter and Schmidhuber (1997), 3.2; Goodfellow et
    al., Deep Learning, 10.9.2 and 10.10.
    """

    _cell, _gates, _choices = "memory", GATES, {**OPTIONS, "grad_clip": float}
    _functions = Functions(memory_forward, memory_backward, memory_step_forward, MemoryForward, MemoryCell)

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, bidirectional: bool = False,
        merge: Literal["concat", "sum", "mean", "mul"] = "concat", dropout: float = 0.0, recurrent_dropout: float = 0.0,
        zoneout_h: float = 0.0, zoneout_c: float = 0.0, delays: Delays = None, period: Period = None, b: bool = True,
        bh: bool = False, output: Literal["tanh", "identity"] = "tanh",
        activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh", grad_clip: float | None = None,
        dtype: DTypeLike = np.float32, rng: Rng = None,
    ):  # fmt: skip
        config = self._judged(
            input_size, hidden_size, num_layers, bidirectional, merge, dropout, b, bh, dtype,
            recurrent_dropout=recurrent_dropout, zoneout_h=zoneout_h, zoneout_c=zoneout_c, delays=delays, period=period,
            output=output, activation=activation, grad_clip=grad_clip,
        )  # fmt: skip
        self._build(config, rng)
        self._draw()

    def _fresh_Wh(self) -> Any:
        return 0
