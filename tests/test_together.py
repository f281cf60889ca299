"""Options of a call drawn together: masks, periods, delays, bounds, projection, lengths, direction, gate order. What they
compute, and the same bits by threads, prepared cells, budgets of memory, flat rows, rows alone.

FASTGATE_CASES is sixteen times the number of drawn calls per cell, option and dtype.
"""

import os

import numpy as np
import pytest
from support import (
    VARIANTS,
    assert_same,
    delayed,
    is_steady,
    of_weights,
    prepare,
    random_call,
    run,
    upstream,
    values,
    variant_id,
)
from test_memory import least_bytes
from test_threads import shared

import fastgate
from fastgate import _kernels, reference

CASES = max(2, int(os.environ.get("FASTGATE_CASES", "96")) // 16)
N_T = [(1, 1), (1, 7), (3, 5), (7, 33), (18, 4), (33, 6), (66, 2)]
D_H = [(4, 7), (5, 16), (33, 17), (3, 1), (9, 70), (2, 130)]


def drawn(cell, options, dtype, rng):
    """(arguments, upstream gradients, keywords)."""
    (N, T), (D, H) = (choices[rng.integers(len(choices))] for choices in (N_T, D_H))
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype, b=rng.random() < 0.7, bh=rng.random() < 0.7)
    keywords = dict(options) | {"lengths": rng.integers(0, T + 1, N), "reverse": bool(rng.integers(2))}
    if cell.G > 1:
        keywords["gate_order"] = "".join(rng.permutation([*cell.gates]))
    if cell.holds and rng.random() < 0.7:
        period = rng.choice([1, 2, 3, 5], H)
        keywords |= {"period": np.sort(period) if rng.random() < 0.6 else period, "start": int(rng.integers(9))}
    if "grad_clip" not in keywords and rng.random() < 0.3:
        keywords["grad_clip"] = 0.1
    P = cell.P(H)
    shapes = {"recurrent_mask": (N, P), "zoneout_h": (N, T, P), "zoneout_c": (N, T, H)}
    for name in [*shapes][: 2 + cell.has_c]:
        kind = rng.choice(["none", "factors", "bools", "of the units", "number"])
        if kind != "none":
            keywords[name] = {
                "factors": values(rng, shapes[name], dtype, 0.6),
                "bools": rng.random(shapes[name]) < 0.5,
                "of the units": values(rng, shapes[name][-1:], dtype, 0.6),
                "number": 0.25,
            }[kind]
    gradients = upstream(cell, rng, call)
    if rng.random() < 0.4:
        keywords["delays"] = np.sort(rng.choice(np.arange(1, 10), rng.integers(1, 4), replace=False))
        call, gradients = delayed(cell, rng, call, gradients, keywords["delays"])
    return call, gradients, keywords


def rows_of(arrays, names, rows):
    return {name: a[rows] if name in names else a for name, a in arrays.items()}


@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_options_together(cell, options, dtype):
    rng = np.random.default_rng([*variant_id((cell, options)).encode(), np.dtype(dtype).itemsize])
    for _ in range(CASES):
        call, gradients, keywords = drawn(cell, options, dtype, rng)
        N, T, _ = call["x"].shape
        lengths = keywords["lengths"]
        totals = ("dh_total", "dc_total")[: 1 + cell.has_c]
        need = (*(f"d{name}" for name in call), *totals)
        expected = run(cell, fastgate, call, gradients, need=need, **keywords)

        if dtype is np.float64 and is_steady(cell, call, **keywords):
            exact = run(cell, reference, call, gradients, need=need, **keywords)
            assert expected.keys() == exact.keys()
            for name, a in exact.items():
                bound = 1e-12 * max(1, np.abs(a).max(initial=0))
                np.testing.assert_allclose(expected[name], a, rtol=0, atol=bound, err_msg=name)

        _kernels._prefill(0xFF)  # NaN: what is not computed is not used
        try:
            assert_same(run(cell, fastgate, call, gradients, need=need, **keywords), expected)
            if lengths.any() and "delays" not in keywords:
                memory = least_bytes(cell.function(fastgate, "forward"), **call, **keywords)
                for budget in (memory, 2 * memory):
                    assert_same(run(cell, fastgate, call, gradients, need=need, memory=budget, **keywords), expected)
        finally:
            _kernels._prefill(-1)
        for threads in (2, 3):
            with shared(threads):
                assert_same(run(cell, fastgate, call, gradients, need=need, **keywords), expected)

        of_cell = {"period", "delays", "gate_order", "grad_clip", *dict(options)}
        prepared, left = prepare(cell, call, **{name: a for name, a in keywords.items() if name in of_cell})
        found = prepared.forward(**left, **{name: a for name, a in keywords.items() if name not in of_cell})
        backward = cell.function(fastgate, "backward")(cache=found.cache, **gradients, need=need)
        assert_same(found._asdict(), expected, ["h", "h_T"])
        assert_same(backward._asdict(), expected, need)

        steps = {"x", "dh", "zoneout_h", "zoneout_c"}
        by_time = {name for name, a in (call | gradients | keywords).items() if name in steps and np.ndim(a) == 3}
        inside = np.arange(T) < lengths[:, None]
        flat = {name: a for name, a in keywords.items() if name != "lengths"} | {"offsets": np.append(0, lengths.cumsum())}
        call_, gradients_, flat = (rows_of(arrays, by_time, inside) for arrays in (call, gradients, flat))
        found = run(cell, fastgate, call_, gradients_, need=need, ragged=True, **flat)
        assert_same(found, rows_of(expected, {"h", "dx", *totals}, inside))

        row = [int(rng.integers(N))]
        of_rows = {"x", *cell.states(), *gradients, "lengths", *by_time}
        if np.ndim(keywords.get("recurrent_mask")) == 2:
            of_rows.add("recurrent_mask")
        call_, gradients_, alone = (rows_of(arrays, of_rows, row) for arrays in (call, gradients, keywords))
        found = run(cell, fastgate, call_, gradients_, need=need, **alone)
        names = [name for name in found if not of_weights(name)]
        assert_same(found, rows_of(expected, names, row), names)
