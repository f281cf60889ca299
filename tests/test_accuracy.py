"""Errors in units in the last place of the largest exact value, against the reference in the next wider precision: float32
against float64, which has 29 bits more, float64 against 80 bits.

Ordinary calls: weights and biases uniform between ±1/sqrt(H), inputs and states uniform between ±1, upstream gradients normal;
leaky units forget within 10 steps (what is remembered for n steps sums up their roundings), sums of memory cells stay near 1.
`pytest -s tests/test_accuracy.py` prints the largest errors met. FASTGATE_CASES is 24 times the number of calls of a size.
"""

import os
from collections import defaultdict

import numpy as np
import pytest
from support import VARIANTS, each, is_steady, run, settled, upstream, variant_id

import fastgate
from fastgate import reference

WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
FORWARD = 4
NORMALISED = 6  # forward of an LSTM with layer normalisation, on the draws of test_norm.py; docs/layer-normalisation.md
SHORT, LONG = 8, 16  # of gradients: T <= 64, T <= 300
SEEDS = max(1, int(os.environ.get("FASTGATE_CASES", "96")) // 24)
# N, T, D, H
SIZES = [(5, 1, 64, 64), (4, 16, 32, 32), (3, 64, 30, 40), (4, 16, 64, 64), (2, 300, 32, 32), (1, 300, 20, 64)]
VARIANTS = [variant for variant in VARIANTS if not variant[0].norm]  # test_norm.py
LARGE = [(4, 64, 128, 128), (2, 16, 256, 256), (1, 8, 100, 512)]
CASES = [(dtype, size, seed) for dtype in (np.float32, np.float64) for size in SIZES for seed in range(SEEDS)]
CASES += [(np.float32, size, 0) for size in LARGE] + [(np.float64, (1, 64, 128, 128), 0)]

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant, reason="long double is no wider than double here"
)


def ordinary_call(cell, options, dtype, N, T, D, H, seed):
    """(arguments, upstream gradients)."""
    for attempt in range(100):
        rng = np.random.default_rng([N, T, D, H, seed, attempt])
        shapes = {"x": (N, T, D)} | {name: (N, H) for name in cell.states()}
        call = {name: rng.uniform(-1, 1, shape).astype(dtype) for name, shape in shapes.items()}
        width = H**-0.5
        shapes = {"Wx": (D, cell.G * H), "Wh": (H, cell.G * H), "b": cell.G * H, "bh": cell.G * H}
        shapes |= {"peephole": 3 * H} if cell.peephole else {}
        call |= {name: rng.uniform(-width, width, shape).astype(dtype) for name, shape in shapes.items()}
        call |= {"alpha": rng.uniform(0, 0.9, H).astype(dtype)} if cell.alpha else {}
        call = settled(cell, call)
        if is_steady(cell, call, **dict(options)):
            return call, upstream(cell, rng, call)
    raise AssertionError("no input of relu stays away from 0, or none of a clip from its bound")


def widened(arrays):
    return {name: a.astype(WIDER[a.dtype]) for name, a in arrays.items()}


def errors(found, exact, dtype):
    """{name: the largest error, in units in the last place of the largest exact value}. h_T, a part of h, is measured as h."""
    units = {name: np.spacing(np.abs(a).max().astype(dtype)).astype(a.dtype) for name, a in exact.items()}
    units["h_T"] = units["h"]
    return {name: float(np.abs(found[name].astype(a.dtype) - a).max() / units[name]) for name, a in exact.items()}


@pytest.fixture(scope="module")
def figures():
    """{(cell, dtype): {what: (error, name, size)}}, printed at the end."""
    met = defaultdict(dict)
    yield met
    print(f"\nLargest errors in ulp, {fastgate.get_config()['isa']}:")
    for (variant, dtype), worst in met.items():
        print(f"  {variant:54} {dtype:8}", *(f"{what} {e:4.1f} ({name} at {size})" for what, (e, name, size) in worst.items()))


@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
@each(("dtype", "size", "seed"), CASES)
def test_ulp(cell, options, dtype, size, seed, figures):
    call, gradients = ordinary_call(cell, options, dtype, *size, seed)
    exact = run(cell, reference, widened(call), widened(gradients), **dict(options))
    found = errors(run(cell, fastgate, call, gradients, **dict(options)), exact, dtype)
    is_gradient = {name: name.startswith("d") for name in found}
    for what in (False, True):
        worst = max((error, name, size) for name, error in found.items() if is_gradient[name] is what)
        met = figures[variant_id((cell, options)), dtype.__name__]
        label = "gradients" if what else "forward"
        met[label] = max(met.get(label, worst), worst)
    bound = SHORT if size[1] <= 64 else LONG
    for name, error in found.items():
        assert error <= (bound if is_gradient[name] else FORWARD), found
