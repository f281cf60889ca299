"""Layers of leaky units."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from fastgate import _arguments
from fastgate.layers import _judge
from fastgate.layers._layer import Functions, PlainLayer
from fastgate.layers._types import Alpha, Delays, Period, Rng
from fastgate.leaky import LeakyCell, LeakyForward, leaky_backward, leaky_forward, leaky_step_forward
from fastgate.reference.leaky import GATES, OPTIONS


class Leaky(PlainLayer[LeakyForward[Any]]):
    """Layers of leaky units, one upon the other, in one direction or both: running averages of what RNN computes.

    Axes batch first: x (N, T, D), h (N, T, output_size). Weights multiply from the right. In each layer and direction

        h_t = alpha * h_{t-1} + (1 - alpha) * activation(x_t Wx + h_{t-1} Wh + b + bh)

    With alpha near 1 a unit remembers for long, with alpha = 0 it is one of RNN; its time constant is -1 / ln(alpha) steps.

    input_size, hidden_size : D, H
    num_layers : the output of a layer is the x of the next one.
    bidirectional : each layer runs over the sequence from both ends. merge : "concat" (output_size 2H), "sum", "mean" or "mul"
        makes one output of the two.
    dropout : the probability that a value between two layers becomes 0 in training; the others are divided by 1 - dropout.
    recurrent_dropout : the probability that a value of h_{t-1} becomes 0 where it meets Wh, in training; one mask for all steps
        of a sequence, in each layer and direction, the other values divided by 1 - recurrent_dropout (Gal and Ghahramani 2016)
    zoneout_h : the probability that a unit keeps its h at a step, in training; after it, the share that it keeps (Krueger et
        al. 2017)
    delays : integers >= 1 that rise, or None: skip connections through time. Wh meets h of so many steps ago, Wh (K, H, H) has
        a matrix for each, and states h are (…, N, d, H), those of the last d = delays[-1] steps, oldest first
    period : an integer >= 1, or one for each of the H units, or None: unit j moves at the steps t where t % period[j] == 0 and
        holds in between, in all layers and directions; t counts the steps of a row in the order in which they run
    b, bh : whether there is an input bias, a recurrent bias
    Wh : False for units that see nothing of each other. There is no recurrent_dropout then.
    alpha : how much of its state a unit keeps: a number from 0 to 1, or one for each of the H units, as draw_alpha draws them
    learn_alpha : False: alpha are constants, the same in all layers and directions. True: fresh weights alpha0 (H,), … of each
        layer and direction have these values. Whoever trains them keeps them from 0 to 1, np.clip(w, 0, 1, out=w) after every
        update; what lies outside is a ValueError of the next call.
    activation : "tanh", "relu", "sigmoid" or "identity". grad_clip : as in leaky_forward
    dtype : float32 or float64, that of all arrays
    rng : a numpy Generator, a seed, or None: draws the weights, and the masks of dropout and zoneout where forward is given no
        other

    Weights are arrays of one flat array, in this order: layer by layer, the forward direction before the reverse one,

        Wx0 (D, H)    Wh0 (H, H)    b0 (H,)    bh0 (H,)    alpha0 (H,)    Wx0_reverse …    Wx1 (output_size, H) …

    without gaps. `parameters` is that array and `weights` the views by name, `gradients` and `grads` the same for the
    gradients: clipping, an optimiser and a sum over machines are one call on one array. Fresh weights: Wx uniform (Glorot and
    Bengio 2010), Wh orthogonal (Saxe et al. 2014), biases 0, alpha as given. Orthogonal matrices come from NumPy's LAPACK,
    whose last bits may differ between machines.

    forward, backward : whole sequences. step, state, reset : streams, one step at a time.
    state_dict, load_state_dict, save, load : weights as arrays, as a file. A layer pickles and copies, with gradients, states
    and generator.

    Sizes that are no integers > 0 and options that do not exist are a ValueError or TypeError that names the argument, sizes
    that no memory holds an OverflowError or MemoryError. Mozer (1992); Jaeger, Lukosevicius, Popovici and Siewert
    (2007); Goodfellow et al., Deep Learning, 10.9.2.
    """

    _cell, _gates, _choices = "leaky", GATES, {"activation": OPTIONS["activation"], "grad_clip": float}
    _functions = Functions(leaky_forward, leaky_backward, leaky_step_forward, LeakyForward, LeakyCell)

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1, bidirectional: bool = False,
        merge: Literal["concat", "sum", "mean", "mul"] = "concat", dropout: float = 0.0, recurrent_dropout: float = 0.0,
        zoneout_h: float = 0.0, delays: Delays = None, period: Period = None, b: bool = True, bh: bool = False, Wh: bool = True,
        alpha: Alpha = 0.875, learn_alpha: bool = False, activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh",
        grad_clip: float | None = None, dtype: DTypeLike = np.float32, rng: Rng = None,
    ):  # fmt: skip
        config = self._judged(
            input_size, hidden_size, num_layers, bidirectional, merge, dropout, b, bh, dtype,
            recurrent_dropout=recurrent_dropout, zoneout_h=zoneout_h, delays=delays, period=period, Wh=Wh, alpha=alpha,
            learn_alpha=learn_alpha, activation=activation, grad_clip=grad_clip,
        )  # fmt: skip
        self._build(config, rng)
        self._draw()

    @classmethod
    def _judge_own(cls, config: dict[str, Any], options: dict[str, Any]) -> None:
        config["Wh"] = _arguments.flag("Wh", options.pop("Wh"))
        config["alpha"] = _judge.alpha(options.pop("alpha"), config["hidden_size"])
        config["learn_alpha"] = _arguments.flag("learn_alpha", options.pop("learn_alpha"))
        if config["delays"] is not None and not config["Wh"]:
            raise ValueError("delays: expected None beside Wh=False, got some")
        if config["recurrent_dropout"] and not config["Wh"]:
            raise ValueError(f"recurrent_dropout: expected 0.0 beside Wh=False, got {config['recurrent_dropout']}")

    @classmethod
    def _vectors(cls, config: dict[str, Any]) -> dict[str, int]:
        return super()._vectors(config) | ({"alpha": 1} if config["learn_alpha"] else {})

    def _read_config(self) -> None:
        super()._read_config()
        if not self._config["Wh"]:
            self._options["Wh"] = None
        if not self._config["learn_alpha"]:
            alpha = self._config["alpha"]
            self._options["alpha"] = alpha if isinstance(alpha, float) else np.array(alpha, self._config["dtype"])

    def _draw(self) -> None:
        super()._draw()
        if self._config["learn_alpha"]:
            for W in self._live:
                W["alpha"][...] = self._config["alpha"]
