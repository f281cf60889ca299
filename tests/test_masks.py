"""Recurrent dropout and zoneout: beside the definition, beside loops written out, the same bits, bad masks, drawn masks."""

import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from layouts import LAYOUTS, lay_out
from levels import FMA_LEVELS, LEVELS, output_at
from support import (
    EXACT,
    LSTM,
    PEEPHOLE,
    VARIANTS,
    WEIGHTS,
    assert_same,
    definition,
    digest,
    each,
    every_module,
    is_steady,
    of_weights,
    prepare,
    random_call,
    run,
    settled,
    upstream,
    values,
    variant_id,
)

import fastgate
from fastgate import _kernels, reference

CELLS = [(cell, options) for cell, options in VARIANTS if not any(value in ("relu", "identity") for _, value in options)]
DERIVATIVES = [variant for variant in CELLS if variant in EXACT]
variants = pytest.mark.parametrize(("cell", "options"), CELLS, ids=map(variant_id, CELLS))
dtypes = each("dtype", [np.float32, np.float64])
# N, T, D, H: round the counts of lanes, and round the sizes at which the driver changes its ways
SIZES = [
    (1, 1, 1, 1), (1, 5, 7, 8), (3, 4, 16, 9), (9, 3, 5, 15), (2, 6, 31, 16), (4, 2, 8, 17), (33, 3, 3, 31), (5, 40, 2, 33),
    (70, 3, 8, 16), (26, 9, 70, 20),
]  # fmt: skip


def names(cell):
    return ["recurrent_mask", "zoneout_h"] + ["zoneout_c"] * cell.has_c


def masks_of(cell, rng, N, T, H, dtype=np.float64, step=False):
    """Random factors, distinct, none of them 0 or 1."""
    P = cell.P(H)
    shapes = [(N, P), (N, P) if step else (N, T, P), (N, H) if step else (N, T, H)]
    return {name: values(rng, shape, dtype, 0.6) for name, shape in zip(names(cell), shapes, strict=False)}


def drawn(cell, options, N, T, D, H, dtype=np.float64, step=False, seed=0):
    """(arguments, masks, upstream gradients); no value so near to the bound of a clip that rounding moves it across."""
    for attempt in itertools.count(seed):
        rng = np.random.default_rng([attempt, N, T, D, H])
        call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype, step=step)
        masks = masks_of(cell, rng, N, T, H, dtype, step)
        if is_steady(cell, call | masks, step, **dict(options)):
            return call, masks, upstream(cell, rng, call, step)


def wide(arrays):
    return {name: a.astype(np.float64) for name, a in arrays.items()}


def close(found, exact, eps, scale=32):
    for name, a in exact.items():
        bound = scale * eps * max(1, np.abs(a).max(initial=0))
        np.testing.assert_allclose(found[name], a, rtol=0, atol=bound, err_msg=name)


# --- what is computed ----------------------------------------------------------------------------------------------


@definition
@pytest.mark.parametrize(("cell", "options"), DERIVATIVES, ids=map(variant_id, DERIVATIVES))
def test_gradients_of_the_definition(cell, options):
    """Against central differences along a random direction of all arguments; ragged, forward and in reverse."""
    for reverse in (False, True):
        call, masks, gradients = drawn(cell, options, N=3, T=5, D=4, H=6)
        rng = np.random.default_rng(7)
        keywords = {"lengths": np.array([5, 0, 3]), "reverse": reverse, **dict(options), **masks}
        direction = {name: rng.normal(size=a.shape) for name, a in call.items()}

        def loss(step, call=call, keywords=keywords, direction=direction, gradients=gradients):
            moved = {name: a + step * direction[name] for name, a in call.items()}
            results = run(cell, reference, moved, **keywords)
            return sum((results[name] * gradients[f"d{name}"]).sum() for name in results)

        found = run(cell, reference, call, gradients, **keywords)
        exact = sum((found[f"d{name}"] * a).sum() for name, a in direction.items())
        difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert abs(difference - exact) <= 1e-7 * max(1, abs(exact))


@variants
@dtypes
def test_kernels_against_the_definition(cell, options, dtype):
    """Each mask alone and all of them, in a step, in sequences with lengths, backwards.

    A memory cell runs for few steps: what a recurrent mask leaves of Wh does not call back its sums, and errors grow as they
    do, in NumPy's float32, too.
    """
    for (N, T, D, H), step in itertools.product(SIZES, (False, True)):
        T = min(T, 9) if cell.name == "memory" else T
        call, masks, gradients = drawn(cell, options, N, T, D, H, dtype, step)
        rng = np.random.default_rng([N, T, D, H])
        for chosen in ([name] for name in names(cell)) if N * T < 40 else (names(cell),):
            some = {name: masks[name] for name in chosen}
            keywords = dict(options) | (
                {} if step else {"lengths": rng.integers(0, T + 1, N), "reverse": bool(rng.integers(2))}
            )
            found = run(cell, fastgate, call, gradients, step, **keywords, **some)
            exact = run(cell, reference, wide(call), wide(gradients), step, **keywords, **wide(some))
            assert found.keys() == exact.keys()
            close(found, exact, np.finfo(dtype).eps)
        keywords = dict(options)
        found = run(cell, fastgate, call, gradients, step, **keywords, **masks)
        close(found, run(cell, reference, wide(call), wide(gradients), step, **keywords, **wide(masks)), np.finfo(dtype).eps)


@variants
def test_units_in_the_last_place(cell, options):
    """float32 beside the definition in float64, with masks as they are drawn: forward within 4, gradients within 8."""
    rng = np.random.default_rng(11)
    for N, T, D, H in ((4, 50, 12, 33), (20, 40, 30, 64)):
        call = random_call(cell, rng, N=N, T=T, D=D, H=H)
        uniform = {
            name: a if name == "alpha" else rng.uniform(-1, 1, a.shape) * (1 if name in ("x", "h0", "c0") else 1 / np.sqrt(H))
            for name, a in call.items()
        }
        call = settled(cell, {name: a.astype(np.float32) for name, a in uniform.items()})
        masks = {
            "recurrent_mask": fastgate.draw_dropout_mask((N, cell.P(H)), 0.25, rng),
            "zoneout_h": fastgate.draw_zoneout_mask((N, T, cell.P(H)), 0.1, rng),
            "zoneout_c": fastgate.draw_zoneout_mask((N, T, H), 0.2, rng),
        }
        masks = {name: masks[name] for name in names(cell)}
        gradients = {name: rng.uniform(-1, 1, a.shape).astype(np.float32) for name, a in upstream(cell, rng, call).items()}
        if not is_steady(cell, call | {name: np.asarray(m, np.float32) for name, m in masks.items()}, **dict(options)):
            continue
        found = run(cell, fastgate, call, gradients, **masks, **dict(options))
        exact = run(
            cell, reference, wide(call), wide(gradients), **dict(options),
            **{name: m if m.dtype == bool else m.astype(np.float64) for name, m in masks.items()},
        )  # fmt: skip
        for name, a in exact.items():
            ulp = np.abs(found[name] - a).max() / np.spacing(np.float32(np.abs(a).max()))
            assert ulp <= (8 if name.startswith("d") else 4), (name, float(ulp))


@every_module
def test_the_equations_written_out(module):
    """LSTM with all masks, GRU with the reset gate before the product: loops in NumPy, as in the papers."""
    rng = np.random.default_rng(3)
    N, T, D, H = 3, 6, 4, 5

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    call, masks, _ = drawn(LSTM, (), N, T, D, H)
    h, c = call["h0"], call["c0"]
    for t in range(T):
        a = call["x"][:, t] @ call["Wx"] + (masks["recurrent_mask"] * h) @ call["Wh"] + call["b"] + call["bh"]
        i, f, g, o = np.split(a, 4, axis=1)
        c_new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h_new = sigmoid(o) * np.tanh(c_new)
        m_h, m_c = masks["zoneout_h"][:, t], masks["zoneout_c"][:, t]
        h, c = m_h * h + (1 - m_h) * h_new, m_c * c + (1 - m_c) * c_new
    found = module.lstm_forward(**call, **masks)
    np.testing.assert_allclose(found.h_T, h, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.h[:, -1], h, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.c_T, c, rtol=0, atol=1e-14)

    x, h = values(rng, (N, T, D)), values(rng, (N, H))
    Wx, Wh, b = values(rng, (D, 3 * H)), values(rng, (H, 3 * H)), values(rng, 3 * H)
    mask, keep = values(rng, (N, H)), values(rng, (N, T, H))
    found = module.gru_forward(x, h, Wx, Wh, b, reset="before", recurrent_mask=mask, zoneout_h=keep)
    Wxr, Wxz, Wxn, Whr, Whz, Whn, b_r, b_z, b_n = (*np.split(Wx, 3, 1), *np.split(Wh, 3, 1), *np.split(b, 3))
    for t in range(T):
        left = mask * h
        r, z = sigmoid(x[:, t] @ Wxr + left @ Whr + b_r), sigmoid(x[:, t] @ Wxz + left @ Whz + b_z)
        n = np.tanh(x[:, t] @ Wxn + (r * left) @ Whn + b_n)
        h = keep[:, t] * h + (1 - keep[:, t]) * ((1 - z) * n + z * h)
    np.testing.assert_allclose(found.h_T, h, rtol=0, atol=1e-13)


@every_module
@variants
@dtypes
def test_what_masks_of_zeros_and_ones_mean(module, cell, options, dtype):
    """Zoneout by 1 keeps the bits of a state and passes gradients straight; by 0, and a recurrent mask of 1, change nothing."""
    call, _, gradients = drawn(cell, options, 4, 5, 3, 17, dtype)
    kept = run(cell, module, call, gradients, zoneout_h=1, **dict(options), **({"zoneout_c": True} if cell.has_c else {}))
    for state in cell.states():
        np.testing.assert_array_equal(kept[f"{state[0]}_T"], call[state])
    np.testing.assert_array_equal(kept["h"], np.broadcast_to(call["h0"][:, None], kept["h"].shape))
    for name in kept:
        if of_weights(name) or name == "dx":
            assert not kept[name].any(), name
    expected = gradients["dh_T"] + 0
    for t in reversed(range(5)):
        expected = expected + gradients["dh"][:, t]
    np.testing.assert_array_equal(kept["dh0"], expected)

    plain = run(cell, module, call, gradients, **dict(options))
    nothing = {"recurrent_mask": 1, "zoneout_h": np.zeros((1, 1, cell.P(17)), bool)} | (
        {"zoneout_c": 0.0} if cell.has_c else {}
    )
    again = run(cell, module, call, gradients, **nothing, **dict(options))
    for name, a in plain.items():
        np.testing.assert_array_equal(again[name], a, err_msg=name)


@variants
def test_gradients_of_the_states_after_each_step(cell, options):
    """Those before zoneout divides them; of the kernels as of the definition."""
    call, masks, gradients = drawn(cell, options, 5, 9, 4, 17)
    need = ("dh_total", "dc_total")[: 1 + cell.has_c]
    found, exact = (run(cell, module, call, gradients, need=need, **masks, **dict(options)) for module in (fastgate, reference))
    close(found, exact, np.finfo(float).eps)
    np.testing.assert_array_equal(found["dh_total"][:, -1], gradients["dh"][:, -1] + gradients["dh_T"])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_mean_stands_for_the_masks(p):
    """One step: the mean over many drawn masks is what the number p computes."""
    rng = np.random.default_rng(5)
    call = random_call(LSTM, rng, N=1, D=3, H=4, step=True)
    many = {name: np.repeat(a, 20000, 0) if name in ("x", "h_prev", "c_prev") else a for name, a in call.items()}
    keep = {name: fastgate.draw_zoneout_mask((20000, 4), p, rng) for name in ("zoneout_h", "zoneout_c")}
    found = fastgate.lstm_step_forward(**many, **keep)
    mean = fastgate.lstm_step_forward(**call, zoneout_h=p, zoneout_c=p)
    np.testing.assert_allclose(found.h_next.mean(0), mean.h_next[0], rtol=0, atol=0.02)
    np.testing.assert_allclose(found.c_next.mean(0), mean.c_next[0], rtol=0, atol=0.02)


# --- the same bits -------------------------------------------------------------------------------------------------


@variants
@dtypes
def test_rows_chunks_steps_and_prepared_cells(cell, options, dtype):
    for N, T, D, H in ((5, 7, 6, 9), (40, 5, 33, 70), (3, 2, 9, 33)):
        call, masks, gradients = drawn(cell, options, N, T, D, H, dtype)
        whole = run(cell, fastgate, call, gradients, **masks, **dict(options))
        of_rows = {name: a for name, a in (call | masks | gradients).items() if name not in WEIGHTS}
        for rows in ([0], [N - 1], list(range(0, N, 2))):
            part = {name: a[rows] for name, a in of_rows.items()}
            found = run(
                cell, fastgate, {name: part.get(name, a) for name, a in call.items()},
                {name: part[name] for name in gradients}, **{name: part[name] for name in masks}, **dict(options),
            )  # fmt: skip
            for name, a in found.items():
                if not of_weights(name):
                    np.testing.assert_array_equal(a, whole[name][rows], err_msg=name)

        prepared, left = prepare(cell, call, **dict(options))
        found = prepared.forward(**left, **masks)
        assert_same({name: getattr(found, name) for name in ("h", "h_T")}, whole, ["h", "h_T"])
        assert_same(cell.function(fastgate, "backward")(cache=found.cache, **gradients)._asdict(), whole, ["dx", "dWh"])
        silent = run(cell, fastgate, call, training=False, **masks, **dict(options))
        assert_same(silent, whole, silent)

        states = by_step = tuple(call[state] for state in cell.states())
        half = {name: m if name == "recurrent_mask" else m[:, : T // 2] for name, m in masks.items()}
        rest = {name: m if name == "recurrent_mask" else m[:, T // 2 :] for name, m in masks.items()}
        weights = {name: a for name, a in call.items() if name in WEIGHTS}
        forward, step = (cell.function(fastgate, what) for what in ("forward", "step_forward"))
        first = forward(call["x"][:, : T // 2], *states, **weights, **half, **dict(options))
        second = forward(call["x"][:, T // 2 :], *first[1 : 2 + cell.has_c], **weights, **rest, **dict(options))
        np.testing.assert_array_equal(np.concatenate([first.h, second.h], axis=1), whole["h"])
        for t in range(T):
            now = {name: m if name == "recurrent_mask" else m[:, t] for name, m in masks.items()}
            one = prepared.step(call["x"][:, t], *by_step, **now)
            by_step = step(call["x"][:, t], *by_step, **weights, **now, **dict(options))[: 1 + cell.has_c]
            np.testing.assert_array_equal(one[0] if cell.has_c else one, by_step[0])
            np.testing.assert_array_equal(by_step[0], whole["h"][:, t])


@variants
@dtypes
def test_padding_flat_rows_and_budgets(cell, options, dtype):
    """NaN in what is past a row's end, of masks too; ragged rows by either table; backward from checkpoints."""
    for (N, T, D, H), reverse in itertools.product(((7, 33, 9, 16), (3, 90, 4, 31)), (False, True)):
        call, masks, gradients = drawn(cell, options, N, T, D, H, dtype)
        lengths = np.random.default_rng(N).permutation(np.linspace(0, T, N).astype(int))
        keywords = dict(options) | {"reverse": reverse}
        inside = np.arange(T) < lengths[:, None]
        expected = run(cell, fastgate, call, gradients, lengths=lengths, **keywords, **masks)
        padded = {
            name: np.where(inside[:, :, None], a, np.array(np.nan, dtype)) if a.ndim == 3 else a
            for name, a in (call | masks | gradients).items()
        }
        found = run(cell, fastgate, *({n: padded[n] for n in d} for d in (call, gradients)), lengths=lengths, **keywords,
                    **{name: padded[name] for name in masks})  # fmt: skip
        assert_same(found, expected)

        flat = {name: a[inside] if a.ndim == 3 else a for name, a in (call | masks | gradients).items()}
        found = run(cell, fastgate, *({n: flat[n] for n in d} for d in (call, gradients)), ragged=True,
                    offsets=np.append(0, lengths.cumsum()), **keywords, **{name: flat[name] for name in masks})  # fmt: skip
        for name, a in found.items():
            np.testing.assert_array_equal(
                a, expected[name][inside] if expected[name].ndim == 3 else expected[name], err_msg=name
            )

        order = np.argsort(-lengths, kind="stable")
        by_time = [name for name, a in (call | masks | gradients).items() if a.ndim == 3]
        time_major = {
            name: a[order].swapaxes(0, 1)[inside[order].T] if name in by_time else a[order] if name not in WEIGHTS else a
            for name, a in (call | masks | gradients).items()
        }
        running = (lengths > 0).sum()  # of a row without a step there is no trace in batch_sizes
        time_major = {name: a if name in WEIGHTS or name in by_time else a[:running] for name, a in time_major.items()}
        found = run(cell, fastgate, *({n: time_major[n] for n in d} for d in (call, gradients)), ragged=True,
                    batch_sizes=inside.sum(0), **keywords, **{name: time_major[name] for name in masks})  # fmt: skip
        for name in found:
            if not of_weights(name) and name not in ("h", "dx"):
                np.testing.assert_array_equal(found[name], expected[name][order[:running]], err_msg=name)
        np.testing.assert_array_equal(found["dx"], expected["dx"][order].swapaxes(0, 1)[inside[order].T])

        forward, backward = cell.function(fastgate, "forward"), cell.function(fastgate, "backward")
        with pytest.raises(ValueError, match=r"^memory: expected at least") as error:
            forward(**call, **masks, lengths=lengths, memory=1, **keywords)
        least = int(str(error.value).split("at least ")[1].split()[0])
        for memory in (least, 2 * least):
            kept = forward(**call, **masks, lengths=lengths, memory=memory, **keywords)
            found = backward(cache=kept.cache, **gradients)._asdict()
            assert_same(found, expected, found)


@variants
@each("threads", [2, 3])
def test_threads(cell, options, threads):
    for N, T, D, H in ((5, 6, 7, 70), (33, 4, 9, 130)):
        call, masks, gradients = drawn(cell, options, N, T, D, H, np.float32)
        expected = run(cell, fastgate, call, gradients, **masks, **dict(options))
        _kernels._share_everything(True)
        _kernels.set_num_threads(threads)
        try:
            assert_same(run(cell, fastgate, call, gradients, **masks, **dict(options)), expected)
        finally:
            _kernels._share_everything(False)
            _kernels.set_num_threads(1)


def digests():
    for cell, options in CELLS:
        for dtype in (np.float32, np.float64):
            for size in ((3, 9, 5, 17), (33, 3, 9, 33)):
                call, masks, gradients = drawn(cell, options, *size, dtype)
                yield digest(run(cell, fastgate, call, gradients, **masks, **dict(options)))


@pytest.mark.skipif(len(FMA_LEVELS) < 2, reason="one level with FMA")
def test_levels():
    found = {level: output_at(level, __file__, "digests") for level in FMA_LEVELS}
    assert len(set(found.values())) == 1
    assert next(iter(found.values())).count("\n") == 4 * len(CELLS)


@pytest.mark.skipif("baseline" not in LEVELS, reason="no such level")
def test_the_level_without_fma():
    assert output_at("baseline", __file__, "near") == "near\n"


def near():
    for cell, options in CELLS:
        call, masks, gradients = drawn(cell, options, 5, 9, 4, 17)
        close(run(cell, fastgate, call, gradients, **masks, **dict(options)),
              run(cell, reference, call, gradients, **masks, **dict(options)), np.finfo(float).eps)  # fmt: skip
    print("near")


@each("layout", LAYOUTS)
@dtypes
def test_masks_in_any_layout(layout, dtype):
    call, masks, gradients = drawn(PEEPHOLE, (), 3, 4, 5, 17, dtype)
    expected = run(PEEPHOLE, fastgate, call, gradients, **masks)
    laid = {name: lay_out(layout, m) for name, m in masks.items()}
    before = digest(laid)
    assert_same(run(PEEPHOLE, fastgate, call, gradients, **laid), expected)
    assert digest(laid) == before


@every_module
def test_masks_that_broadcast(module):
    """A number, (H,), (T, 1), an axis of stride 0, bools: the bits of the array written out."""
    call, _, gradients = drawn(LSTM, (), 3, 4, 5, 9)
    rng = np.random.default_rng(2)
    cases = {
        "recurrent_mask": [0.7, np.float32(0.5), np.array(0.3), values(rng, 9), values(rng, (3, 1)),
                           rng.random((3, 9)) < 0.5, True],
        "zoneout_h": [0.7, 3, values(rng, 9), values(rng, (4, 1)), values(rng, (3, 1, 9)), rng.random((3, 4, 9)) < 0.5,
                      np.broadcast_to(values(rng, (3, 1, 1)), (3, 4, 9)), np.broadcast_to(values(rng, (4, 9)), (3, 4, 9))],
    }  # fmt: skip
    cases["zoneout_c"] = cases["zoneout_h"]
    for name, masks in cases.items():
        for mask in masks:
            whole = np.array(np.broadcast_to(mask, (3, 9) if name == "recurrent_mask" else (3, 4, 9)), float)
            assert_same(run(LSTM, module, call, gradients, **{name: mask}), run(LSTM, module, call, gradients, **{name: whole}))


def test_a_broadcast_mask_takes_no_memory():
    x, Wx, Wh = np.ones((8, 2000, 3)), np.ones((3, 4 * 64)), np.ones((64, 4 * 64))
    mask = np.broadcast_to(np.full(64, 0.5), (8, 2000, 64))
    plain = fastgate.lstm_forward(x, None, None, Wx, Wh)
    cache = fastgate.lstm_forward(x, None, None, Wx, Wh, zoneout_h=mask).cache
    assert cache.call.masks.zoneout_h.base is not None
    assert cache.call.masks.zoneout_h.strides[:2] == (0, 0)
    assert cache.nbytes < plain.cache.nbytes + 9 * 8 * 2000 * 64


# --- what is refused, and where results may lie ------------------------------------------------------------------


@every_module
def test_bad_masks(module):
    call, masks, _ = drawn(LSTM, (), 3, 4, 5, 9)
    before = digest(call, masks)
    for name in names(LSTM):
        shape = "(N, H) = (3, 9)" if name == "recurrent_mask" else "(N, T, H) = (3, 4, 9)"
        for wrong in (
            np.ones(8),
            np.ones((4, 9)) if name == "recurrent_mask" else np.ones((3, 9)),
            np.ones((1, 3, 4, 9)),
            np.ones(0),
        ):
            words = f"{name}: expected a number or an array that broadcasts to {shape}, got {wrong.shape}"
            with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
                module.lstm_forward(**call, **{name: wrong})
        for wrong in (np.ones(9, np.float32), np.ones(9, int), "x", 1j, [[0.5] * 9, [1]], np.ones(9, complex), object()):
            with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
                module.lstm_forward(**call, **{name: wrong})
        with pytest.raises(ValueError, match=f"^{name}: expected a number that fits a float"):
            module.lstm_forward(**call, **{name: 10**400})
        with pytest.raises(TypeError, match=f"^{name}: .*masked array"):
            module.lstm_forward(**call, **{name: np.ma.masked_array(np.ones(9), mask=np.zeros(9))})
    step = {name: a[:, 0] if name == "x" else a for name, a in call.items()}
    step |= {"h_prev": step.pop("h0"), "c_prev": step.pop("c0")}
    with pytest.raises(ValueError, match=r"^zoneout_c: .* broadcasts to \(N, H\) = \(3, 9\), got \(3, 4, 9\)"):
        module.lstm_step_forward(**step, zoneout_c=masks["zoneout_c"])
    flat = {name: a[:, 0] if name == "x" else a for name, a in call.items()}
    with pytest.raises(ValueError, match=r"^zoneout_h: .* broadcasts to \(sum T, H\) = \(3, 9\), got \(4, 9\)"):
        module.lstm_ragged_forward(**flat, offsets=[0, 1, 2, 3], zoneout_h=np.ones((4, 9)))
    assert digest(call, masks) == before


@every_module
def test_empty_calls(module):
    for N, T, D, H in itertools.product((0, 2), (0, 3), (0, 2), (0, 3)):
        call = random_call(PEEPHOLE, np.random.default_rng(0), N=N, T=T, D=D, H=H)
        masks = masks_of(PEEPHOLE, np.random.default_rng(1), N, T, H)
        found = run(PEEPHOLE, module, call, upstream(PEEPHOLE, np.random.default_rng(2), call), **masks)
        assert found["h"].shape == (N, T, H)
        if T == 0:
            np.testing.assert_array_equal(found["c_T"], call["c0"])
        run(PEEPHOLE, module, call, zoneout_h=0.5, recurrent_mask=0.5)


@every_module
def test_results_in_the_place_of_masks(module):
    """As if they had been copied first."""
    call, masks, gradients = drawn(LSTM, (), 3, 4, 9, 9)
    expected = run(LSTM, module, call, gradients, **masks)
    own = {name: m.copy() for name, m in masks.items()}
    found = module.lstm_forward(**call, **own, out={"h": own["zoneout_h"], "h_T": own["recurrent_mask"]})
    np.testing.assert_array_equal(own["zoneout_h"], expected["h"])
    np.testing.assert_array_equal(own["recurrent_mask"], expected["h_T"])
    gradients = module.lstm_backward(cache=found.cache, **gradients, out=own["zoneout_c"])
    np.testing.assert_array_equal(own["zoneout_c"], expected["dx"])
    np.testing.assert_array_equal(gradients.dWh, expected["dWh"])


def test_values_that_are_not_finite_stay_in_their_row():
    call, masks, gradients = drawn(LSTM, (), 4, 5, 3, 9, np.float32)
    expected = run(LSTM, fastgate, call, gradients, **masks)
    for name in names(LSTM):
        spoilt = {other: m.copy() for other, m in masks.items()}
        spoilt[name][1] = np.nan
        found = run(LSTM, fastgate, call, gradients, **spoilt)
        for result in ("h", "h_T", "c_T", "dx", "dh0", "dc0"):
            others = [0, 2, 3]
            np.testing.assert_array_equal(found[result][others], expected[result][others], err_msg=f"{name} {result}")
        assert np.isnan(found["h"][1]).any() or name == "zoneout_c"


guards = pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")


@guards
@pytest.mark.parametrize("side", ["after", "before"])
def test_nothing_beside_the_masks_is_read(side):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run(
        [sys.executable, __file__, "guard", side], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]


def within_guards(side):
    from guard import guarded

    for (cell, options), dtype in itertools.product(CELLS, (np.float32, np.float64)):
        for N, T, D, H in ((1, 2, 2, 1), (3, 2, 2, 7), (2, 3, 2, 17), (33, 1, 2, 16)):
            call, masks, gradients = drawn(cell, options, N, T, D, H, dtype)
            placed = {name: guarded(m, side) for name, m in masks.items()}
            found = run(cell, fastgate, call, gradients, **placed, **dict(options))
            assert_same(found, run(cell, fastgate, call, gradients, **masks, **dict(options)))


# --- drawn masks ---------------------------------------------------------------------------------------------------


def test_a_dropout_mask():
    for dtype in (np.float32, np.float64):
        mask = fastgate.draw_dropout_mask((300, 400), 0.25, np.random.default_rng(0), dtype)
        assert mask.dtype == dtype
        assert set(np.unique(mask)) == {0, dtype(1 / 0.75)}
        assert abs((mask == 0).mean() - 0.25) < 0.01
        again = fastgate.draw_dropout_mask([300, np.int64(400)], 0.25, np.random.default_rng(0), dtype)
        np.testing.assert_array_equal(mask, again)
    assert fastgate.draw_dropout_mask(5, 0, np.random.default_rng(0)).tolist() == [1] * 5


def test_a_zoneout_mask():
    mask = fastgate.draw_zoneout_mask((30, 40, 50), 0.1, np.random.default_rng(0))
    assert mask.dtype == bool
    assert abs(mask.mean() - 0.1) < 0.01
    assert fastgate.draw_zoneout_mask(3, 1, np.random.default_rng(0)).all()
    assert not fastgate.draw_zoneout_mask((), 0, np.random.default_rng(0)).any()


@pytest.mark.parametrize("draw", [fastgate.draw_dropout_mask, fastgate.draw_zoneout_mask], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"shape": (2, -1)}, ValueError, "shape: expected integers >= 0, got -1"),
        ({"shape": (2, 1.5)}, TypeError, "shape: expected integers >= 0, got float 1.5"),
        ({"shape": None}, TypeError, "shape: expected integers >= 0, got None"),
        ({"shape": True}, TypeError, "shape: expected integers >= 0, got bool True"),
        ({"shape": (2**40, 2**40)}, OverflowError, "shape: "),
        ({"p": 1.01}, ValueError, "p: expected a number from 0 to "),
        ({"p": -0.1}, ValueError, "p: expected a number >= 0, got -0.1"),
        ({"p": np.nan}, ValueError, "p: expected a number >= 0, got nan"),
        ({"p": "half"}, TypeError, "p: expected a number >= 0, got str 'half'"),
        ({"rng": 0}, TypeError, r"rng: expected a numpy Generator, got int 0; pass np.random.default_rng\(seed\)"),
        ({"rng": None}, TypeError, "rng: expected a numpy Generator, got None"),
    ],
)
def test_bad_draws(draw, arguments, kind, words):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises(kind, match=f"^{words}"):
        draw(**({"shape": (2, 3), "p": 0.5, "rng": rng} | arguments))
    assert rng.bit_generator.state == before


def test_bad_draws_of_dropout():
    with pytest.raises(ValueError, match=r"^p: expected a number from 0 to below 1, got 1\.0"):
        fastgate.draw_dropout_mask(3, 1, np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"^dtype: expected float32 or float64, got int64$"):
        fastgate.draw_dropout_mask(3, 0.5, np.random.default_rng(0), np.int64)


if __name__ == "__main__":
    if sys.argv[1] == "digests":
        print("\n".join(digests()))
    elif sys.argv[1] == "near":
        near()
    else:
        within_guards(sys.argv[2])
