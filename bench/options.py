"""What an option of a cell costs: `python -m bench.options`. The speed with it, as a share of the speed of the plain cell;
that of the leaky cell, as a share of that of rnn.

Calls of one shape take turns in one process, on one thread, plain ones among them; a share is the median over the rounds,
with its quartiles.
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np

import fastgate

from . import timer
from .cases import make_case

SHAPES = ["50,1,64,64", "50,8,128,128", "50,32,256,256"]
TIME_SCALES = {
    "period=[1, 2, 4, 8]": {"period": (1, 2, 4, 8)},
    "delays=(4,)": {"delays": (4,)},
    "delays=(1, 4)": {"delays": (1, 4)},  # twice the products with Wh
}
LSTM = {
    "plain": {},
    "peephole": {"peephole": True},
    'candidate="sigmoid"': {"candidate": "sigmoid"},
    "coupled=True": {"coupled": True},
    "cell_clip": {"cell_clip": 3.0},
    "preact_clip": {"preact_clip": 3.0},
    "grad_clip": {"grad_clip": 1.0},
    "recurrent_mask": {"recurrent_mask": True},
    "zoneout": {"zoneout_h": 0.1, "zoneout_c": 0.1},
    "all of them": {"peephole": True, "candidate": "sigmoid", "coupled": True, "cell_clip": 3.0, "preact_clip": 3.0},
    "layer normalisation": {"norm": ("gain_x", "gain_h")},
    "…, of c, too": {"norm": ("gain_x", "gain_h", "gain_c", "beta_c")},
    **TIME_SCALES,
}
GRU = {
    "plain": {},
    'update="new"': {"update": "new"},
    'candidate="sigmoid"': {"candidate": "sigmoid"},
    "grad_clip": {"grad_clip": 1.0},
    "recurrent_mask": {"recurrent_mask": True},
    "zoneout": {"zoneout_h": 0.1},
    "layer normalisation": {"norm": ("gain_x", "gain_h")},
    **TIME_SCALES,
}
RNN = {
    "plain": {},
    "leaky, a number": {"cell": "leaky"},
    "leaky, an array": {"cell": "leaky", "alpha": True},
    "leaky without Wh": {"cell": "leaky", "Wh": None},
    **TIME_SCALES,
}


def call_of(cell: str, options: dict[str, object], shape: tuple[int, int, int, int], training: bool) -> Callable[[], object]:
    options = dict(options)
    cell = str(options.pop("cell", cell))
    gains = options.pop("norm", ())
    cell += "_norm" * bool(gains)
    case = make_case(cell, "training" if training else "forward", *shape)
    options |= {
        name: np.ones_like(case.b) if name in ("gain_x", "gain_h") else np.ones_like(case.Wh[0, : shape[3]]) for name in gains
    }
    Wh = options.pop("Wh", case.Wh)
    if delays := options.get("delays", ()):
        Wh = np.stack([Wh] * len(delays))
    if options.pop("alpha", False):
        options["alpha"] = fastgate.draw_alpha(shape[3], 1, 100, np.random.default_rng(0), case.x.dtype)
    if options.pop("peephole", False):
        options["peephole"] = np.random.default_rng(0).standard_normal(3 * shape[3]).astype(case.x.dtype)
    if scales := options.pop("period", ()):
        options["period"] = np.repeat(scales, -(-shape[3] // len(scales)))[: shape[3]]  # units in blocks, as in a clockwork
    if options.pop("recurrent_mask", False):
        options["recurrent_mask"] = fastgate.draw_dropout_mask(
            (shape[1], shape[3]), 0.25, np.random.default_rng(0), case.x.dtype
        )
    forward, backward = (getattr(fastgate, f"{cell}_{direction}") for direction in ("forward", "backward"))
    states = dict.fromkeys(case.states) if delays else case.states
    arguments = (case.x, *states.values(), case.Wx, Wh, case.b)

    def call() -> object:
        result = forward(*arguments, **options, training=training)
        return backward(case.dh, result.cache) if training else result

    return call


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.options", description=__doc__)
    parser.add_argument("--rows", nargs="+", default=SHAPES, help=f"shapes as T,N,D,H (default: {' '.join(SHAPES)})")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for one shape, forward or training (default: 5)")
    chosen = parser.parse_args()
    fastgate.set_num_threads(1)
    for row in chosen.rows:
        T, N, D, H = map(int, row.split(","))
        for training in (False, True):
            print(f"T={T} N={N} D={D} H={H}, {'forward and backward' if training else 'forward'}")
            for cell, variants in (("lstm", LSTM), ("gru", GRU), ("rnn", RNN)):
                calls = {name: call_of(cell, options, (T, N, D, H), training) for name, options in variants.items()}
                times = timer.measure(calls, chosen.budget)
                for name, found in times.items():
                    shares = [plain / own for plain, own in zip(times["plain"].bursts, found.bursts, strict=False)]
                    low, high = timer.quartiles(shares)
                    middle = statistics.median(shares)
                    print(f"  {cell}  {name:20} {found.median * 1e6:10.1f} us  {middle:7.1%}  ({low:.1%} to {high:.1%})")


if __name__ == "__main__":
    main()
