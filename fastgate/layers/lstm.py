"""Layers of long short-term memory."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import DTypeLike

from fastgate import _arguments
from fastgate.layers import _judge
from fastgate.layers._layer import Functions, LayerWithC
from fastgate.layers._types import Delays, Period, Rng
from fastgate.lstm import LSTMCell, LSTMForward, lstm_backward, lstm_forward, lstm_step_forward
from fastgate.reference.lstm import CANDIDATES, GATES


class LSTM(LayerWithC[LSTMForward[Any]]):
    """Layers of long short-term memory, one upon the other, in one direction or both.

    Axes batch first: x (N, T, D), h (N, T, output_size). Gate order "ifgo". Weights multiply from the right. In each layer and
    direction

        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)      a = x_t Wx + h_{t-1} Wh + b + bh, blocks a_i a_f a_g a_o
        g = tanh(a_g)
        c_t = f * c_{t-1} + i * g
        h_t = o * tanh(c_t)

    and with options, in this order: a_i, a_f += p_i * c_{t-1}, p_f * c_{t-1} and a_o += p_o * c_t (peephole p); a between
    -preact_clip and preact_clip; g = sigmoid(a_g) (candidate="sigmoid"); i = 1 - f (coupled); c_t between -cell_clip and
    cell_clip; h_t = (o * tanh(c_t)) Wr, P wide (proj_size=P; Sak, Senior and Beaufays 2014).

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
        proj_size
    b, bh : whether there is an input bias, a recurrent bias
    gate_order : a permutation of "ifgo", the order of the 4 blocks of H columns in all weights and their gradients
    peephole : whether there are weights from c to the gates, peephole0 (3H,), in the order i f o; fresh ones are zeros
    proj_size : P, the width of h, or None = H, without a projection. With it, there are weights Wr0 (H, P), Wh0 is (P, 4H), and
        h, h0, h_T and their gradients are P wide, output_size P or 2P; c stays H wide. PyTorch's proj_size, which must be < H.
    candidate, coupled, cell_clip, preact_clip, grad_clip : as in lstm_forward
    dtype : float32 or float64, that of all arrays
    rng : a numpy Generator, a seed, or None: draws the weights, and the masks of dropout and zoneout where forward is given no
        other

    Weights are arrays of one flat array, in this order: layer by layer, the forward direction before the reverse one,

        Wx0 (D, 4H)    Wh0 (H, 4H)    b0 (4H,)    bh0 (4H,)    Wx0_reverse …    Wx1 (output_size, 4H) …    peephole0 (3H,) …
        Wr0 (H, P) …

    without gaps. `parameters` is that array and `weights` the views by name, `gradients` and `grads` the same for the
    gradients: clipping, an optimiser and a sum over machines are one call on one array. Fresh weights, gate by gate: Wx uniform
    (Glorot and Bengio 2010) as Wr, Wh orthogonal (Saxe et al. 2014), biases 0 but for that of the forget gate, 1 (Jozefowicz et
    al. 2015), in b, or in bh where there is no b. Orthogonal matrices come from NumPy's LAPACK, whose last bits may differ
    between machines.

    forward, backward : whole sequences. step, state, reset : streams, one step at a time.
    state_dict, load_state_dict, save, load : weights as arrays, as a file. A layer pickles and copies, with gradients, states
    and generator.

    Sizes that are no integers > 0 and options that do not exist are a ValueError or TypeError that names the argument, sizes
    that no memory holds an OverflowError or MemoryError. Hochreiter and Schmidhuber (1997), Gers et al. (2000), Graves and
    Schmidhuber (2005).
    """

    _cell, _gates = "lstm", GATES
    _choices: ClassVar = {
        "gate_order": None,
        "candidate": CANDIDATES,
        "coupled": bool,
        "cell_clip": float,
        "preact_clip": float,
        "grad_clip": float,
    }
    _functions = Functions(lstm_forward, lstm_backward, lstm_step_forward, LSTMForward, LSTMCell)

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, bidirectional: bool = False,
        merge: Literal["concat", "sum", "mean", "mul"] = "concat", dropout: float = 0.0, recurrent_dropout: float = 0.0,
        zoneout_h: float = 0.0, zoneout_c: float = 0.0, delays: Delays = None, period: Period = None, b: bool = True,
        bh: bool = False, peephole: bool = False, proj_size: int | None = None, gate_order: str = "ifgo",
        candidate: Literal["tanh", "sigmoid"] = "tanh", coupled: bool = False, cell_clip: float | None = None,
        preact_clip: float | None = None, grad_clip: float | None = None, dtype: DTypeLike = np.float32, rng: Rng = None,
    ):  # fmt: skip
        config = self._judged(
            input_size, hidden_size, num_layers, bidirectional, merge, dropout, b, bh, dtype,
            recurrent_dropout=recurrent_dropout, zoneout_h=zoneout_h, zoneout_c=zoneout_c, delays=delays, period=period,
            peephole=peephole, proj_size=proj_size, gate_order=gate_order, candidate=candidate, coupled=coupled,
            cell_clip=cell_clip, preact_clip=preact_clip, grad_clip=grad_clip,
        )  # fmt: skip
        self._build(config, rng)
        self._draw()

    @classmethod
    def _judge_own(cls, config: dict[str, Any], options: dict[str, Any]) -> None:
        config["peephole"] = _arguments.flag("peephole", options.pop("peephole"))
        P = options.pop("proj_size", None)
        config["proj_size"] = None if P is None else _judge.size("proj_size", P)
        if P is not None and config["period"] is not None:
            raise ValueError("period: expected None beside proj_size, got one")

    @classmethod
    def _vectors(cls, config: dict[str, Any]) -> dict[str, int]:
        return super()._vectors(config) | ({"peephole": 3} if config["peephole"] else {})

    @property
    def proj_size(self) -> int | None:
        """P, the width of h where there is a projection; else None."""
        return self._config["proj_size"]
