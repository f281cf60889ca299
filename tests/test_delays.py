"""delays=: the product with Wh reads h of several steps ago, around every cell."""

import itertools

import numpy as np
import pytest
from levels import FMA_LEVELS, LEVELS, output_at
from support import (
    CELLS,
    VARIANTS,
    assert_same,
    definition,
    delayed,
    differentiate,
    digest,
    each,
    every_module,
    prepare,
    random_call,
    run,
    upstream,
    values,
    variant_id,
    weights_of,
)
from test_accuracy import FORWARD, LONG, NORMALISED, SHORT, errors, ordinary_call, widened
from test_period import masks
from test_same_bits import of_rows, taken

import fastgate
from fastgate import _kernels, flow, reference

SMOOTH = [v for v in VARIANTS if not any("clip" in name or value == "relu" for name, value in v[1])]
variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
smooth = pytest.mark.parametrize(("cell", "options"), SMOOTH, ids=map(variant_id, SMOOTH))
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
joined = pytest.mark.parametrize(("cell", "options"), [v for v in VARIANTS if "n" not in v[0].gates and not v[0].norm],
                                 ids=lambda v: v if isinstance(v, str) else None)  # fmt: skip
dtypes = each("dtype", [np.float32, np.float64])
# N, T, D, H, delays: round the lane counts, weights read as they lie and in panels, delays longer than the sequence
SIZES = [(1, 1, 1, 1, (1,)), (3, 7, 5, 7, (2,)), (2, 9, 16, 8, (1, 3)), (9, 4, 3, 9, (2, 3, 6)), (1, 12, 6, 15, (1, 2)),
         (26, 3, 8, 17, (1, 5)), (2, 5, 31, 33, (4,)), (1, 2, 3, 130, (1, 2)), (34, 6, 2, 70, (1, 4)),
         (70, 3, 4, 31, (2, 3))]  # fmt: skip


def drawn(cell, dtype=np.float64, *, N, T, D, H, delays, step=False, seed=0):
    """(arguments, upstream gradients)."""
    rng = np.random.default_rng([N, T, D, H, step, seed])
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype, step=step)
    return delayed(cell, rng, call, upstream(cell, rng, call, step), delays)


def ways(cell, rng, N, T, H):
    yield {}
    yield {"reverse": True}
    yield {"lengths": rng.integers(0, T + 1, N)}
    yield {"lengths": rng.integers(0, T + 1, N), "reverse": True}
    if not cell.projection:
        yield masks(cell, rng, N, T, H)
        yield {"zoneout_h": 0.25, "lengths": rng.integers(0, T + 1, N)}
    if cell.holds:
        yield masks(cell, rng, N, T, H) | {"period": rng.choice([1, 2, 3], H), "start": 1}


# --- what it computes ----------------------------------------------------------------------------------------------


@every_module
@joined
@dtypes
def test_states_of_earlier_steps_beside_x(module, cell, options, dtype):
    """Values: the plain step whose x has h of each delay beside it, and whose Wh is 0."""
    for N, T, D, H, delays in SIZES:
        call, _ = drawn(cell, dtype, N=N, T=T, D=D, H=H, delays=delays)
        found = run(cell, module, call, training=False, delays=delays, **dict(options))
        P, weights = cell.P(H), weights_of(call)
        weights |= {"Wx": np.concatenate([call["Wx"], *call["Wh"]]), "Wh": np.zeros_like(call["Wh"][0])}
        past, states = list(call["h0"].swapaxes(0, 1)), [call[name] for name in cell.states()[1:]]
        for t in range(T):
            x = np.concatenate([call["x"][:, t], *(past[-d] for d in delays)], axis=1)
            h, *states, _ = cell.function(reference, "step_forward")(x, past[-1], *states, **weights, **dict(options))
            past.append(h)
        expected = {"h": np.stack(past[delays[-1] :], 1), "h_T": np.stack(past[-delays[-1] :], 1)}
        for name, a in (expected | dict(zip(("c_T",), states, strict=False))).items():
            assert found[name].shape == a.shape
            np.testing.assert_allclose(found[name], a, rtol=0, atol=32 * np.finfo(dtype).eps * max(1, np.abs(a).max()))
        assert found["h"].shape == (N, T, P)


@every_module
@each("reset", ["after", "before"])
def test_gru_by_its_formula(module, reset):
    N, T, D, H, delays = 3, 6, 4, 5, (2, 3)
    gru = next(cell for cell in CELLS if cell.name == "gru")
    call, _ = drawn(gru, N=N, T=T, D=D, H=H, delays=delays)
    found = run(gru, module, call, training=False, delays=delays, reset=reset)
    past = list(call["h0"].swapaxes(0, 1))
    Whr, Whz, Whn = np.split(call["Wh"], 3, axis=2)
    (bhr, bhz, bhn), ax = np.split(call["bh"], 3), call["x"] @ call["Wx"] + call["b"]
    for t in range(T):
        ax_r, ax_z, ax_n = np.split(ax[:, t], 3, axis=1)
        h = [past[-d] for d in delays]
        r, z = (1 / (1 + np.exp(-a - sum(map(np.matmul, h, W)) - b)) for a, W, b in ((ax_r, Whr, bhr), (ax_z, Whz, bhz)))
        if reset == "after":
            n = np.tanh(ax_n + r * (sum(map(np.matmul, h, Whn)) + bhn))
        else:
            n = np.tanh(ax_n + sum(map(np.matmul, [r * q for q in h], Whn)) + bhn)
        past.append((1 - z) * n + z * past[-1])
    np.testing.assert_allclose(found["h"], np.stack(past[3:], 1), rtol=0, atol=1e-14)


@definition
@smooth
@each("step", [False, True])
def test_gradients_equal_finite_differences(cell, options, step):
    """Along a random direction of each argument and of all: relative error <= 1e-7."""
    N, T, D, H = 3, 5, 4, 6
    tried = [] if cell.projection else [masks(cell, np.random.default_rng(0), N, T, H)]
    tried += [{"period": [1, 2, 3, 1, 2, 2]}] * cell.holds
    delays_of = itertools.cycle([(1, 3), (2,), (2, 7)])
    for seed, way in enumerate(({},) if step else ({}, {"reverse": True}, {"lengths": [5, 0, 3]}, *tried)):
        delays = next(delays_of)
        call, gradients = drawn(cell, N=N, T=T, D=D, H=H, delays=delays, step=step, seed=seed)
        keywords = dict(options) | way | {"delays": delays}
        differentiate(cell, call, gradients, seed, step, **keywords)


@smooth
@dtypes
def test_kernels_against_the_reference(cell, options, dtype):
    bound = 1e-12 if dtype is np.float64 else 32 * np.finfo(dtype).eps
    for N, T, D, H, delays in SIZES:
        for way in ways(cell, np.random.default_rng(H), N, T, H):
            call, gradients = drawn(cell, dtype, N=N, T=T, D=D, H=H, delays=delays)
            keywords = dict(options) | way | {"delays": delays}
            totals = (*(f"d{name}" for name in call), *("dh_total", "dc_total")[: 1 + cell.has_c])
            wide = ({name: a.astype(np.float64) for name, a in arrays.items()} for arrays in (call, gradients))
            exact = run(cell, reference, *wide, need=totals, **keywords)
            _kernels._prefill(0xFF)  # signalling NaN: what is not computed is not used
            try:
                found = run(cell, fastgate, call, gradients, need=totals, **keywords)
            finally:
                _kernels._prefill(-1)
            assert found.keys() == exact.keys()
            for name, a in exact.items():
                assert found[name].shape == a.shape
                np.testing.assert_allclose(found[name], a, rtol=0, atol=bound * max(1, np.abs(a).max(initial=0)), err_msg=name)


@variants
@dtypes
@pytest.mark.parametrize(("T", "bound"), [(64, SHORT), (200, LONG)])
def test_ulp(cell, options, dtype, T, bound):
    """In units of the last place of the largest exact value, ordinary weights, against the reference in 80 bits."""
    H, delays = 24, (1, 4)
    call, gradients = ordinary_call(cell, options, dtype, 3, T, 12, H, 0)
    rng = np.random.default_rng(T)
    shape, P = call["Wh"].shape, call["Wh"].shape[0]
    call["Wh"] = np.stack([call["Wh"], values(rng, shape, dtype, np.abs(call["Wh"]).mean())]) / dtype(2)
    call["h0"], gradients["dh_T"] = values(rng, (3, 4, P), dtype, 0.5), values(rng, (3, 4, P), dtype)
    keywords = dict(options) | {"delays": delays}
    exact = run(cell, reference, widened(call), widened(gradients), **keywords)
    forward = NORMALISED if cell.norm else FORWARD
    for name, error in errors(run(cell, fastgate, call, gradients, **keywords), exact, dtype).items():
        assert error <= (bound if name.startswith("d") else forward), name


@each("dtype", [np.float32, np.float64])
@each("delays", [(1,), (1, 3)])
def test_a_saturated_reset_gate_passes_nothing_back(dtype, delays):
    """No NaN, however large the states that it shut out."""
    K, d, H = len(delays), delays[-1], 3
    Wh, b = np.zeros((K, H, 3 * H), dtype), np.zeros(3 * H, dtype)
    Wh[:, :, 2 * H :], b[:H] = 30, -1000
    h0 = np.full((1, d, H), np.finfo(dtype).max / 2, dtype)
    x, Wx = np.ones((1, 2, 1), dtype), np.zeros((1, 3 * H), dtype)
    result = fastgate.gru_forward(x, h0, Wx, Wh, b, reset="before", delays=delays)
    assert np.isfinite(result.h).all()
    gradients = fastgate.gru_backward(np.full((1, 2, H), 0.5, dtype), result.cache)
    assert not any(np.isnan(a).any() for a in gradients)
    assert not gradients.db[:H].any()


# --- the same bits -------------------------------------------------------------------------------------------------


@every_module
@variants
@dtypes
def test_a_delay_of_one_is_none(module, cell, options, dtype):
    """Forward has the same bits, backward but for one order of summation the same values."""
    for N, T, D, H, _ in SIZES[::2]:
        call, gradients = drawn(cell, dtype, N=N, T=T, D=D, H=H, delays=(1,))
        found = run(cell, module, call, gradients, delays=[1], **dict(options))
        last = {"h0": call["h0"][:, 0], "Wh": call["Wh"][0]}
        plain = run(cell, module, call | last, gradients | {"dh_T": gradients["dh_T"][:, 0]}, **dict(options))
        found |= {name: found[name][:, 0] for name in ("h_T", "dh0")} | {"dWh": found["dWh"][0]}
        assert_same(found, plain, [name for name in plain if name[0] != "d"])
        for name, a in plain.items():
            np.testing.assert_allclose(found[name], a, rtol=0, atol=64 * np.finfo(dtype).eps * max(1, np.abs(a).max(initial=0)))


@variants
@dtypes
def test_chunks_and_steps_equal_the_whole(cell, options, dtype):
    """Forward, and backward but for the weight gradients, whose sums the chunks would cut."""
    for N, T, D, H, delays in SIZES:
        call, gradients = drawn(cell, dtype, N=N, T=T, D=D, H=H, delays=delays)
        keywords = dict(options) | {"delays": delays}
        expected = run(cell, fastgate, call, gradients, **keywords)
        prepared, _ = prepare(cell, call, **keywords)
        for cuts in ((0, T // 3, T // 2, T), range(T + 1)):
            states, caches = [call[name] for name in cell.states()], []
            h, dx = np.empty((N, T, cell.P(H)), dtype), np.empty((N, T, D), dtype)
            for first, end in itertools.pairwise(cuts):
                step, piece = end - first == 1, slice(first, end)
                arguments = {"x": call["x"][:, first] if step else call["x"][:, piece]} | weights_of(call)
                arguments |= dict(zip(cell.states(step), states, strict=True))
                result = cell.function(fastgate, "step_forward" if step else "forward")(**arguments, **keywords)
                if step:
                    stepped = prepared.step(arguments["x"], *states)
                    for a, b in zip(stepped if cell.has_c else (stepped,), result, strict=False):
                        np.testing.assert_array_equal(a, b)
                    states = list(result[:-1])
                    h[:, first] = states[0][:, -1]
                else:
                    h[:, piece], *states = result[:-1]
                caches.append((step, piece, result.cache))
            d = [gradients[name] for name in ("dh_T", "dc_T")[: len(states)]]
            for step, piece, cache in reversed(caches):
                if step:
                    d[0] = d[0].copy()
                    d[0][:, -1] += gradients["dh"][:, piece.start]
                    back = cell.function(fastgate, "step_backward")(*d, cache)
                    dx[:, piece.start] = back.dx
                else:
                    ends = dict(zip(("dh_T", "dc_T"), d, strict=False))
                    back = cell.function(fastgate, "backward")(gradients["dh"][:, piece], cache, **ends)
                    dx[:, piece] = back.dx
                d = list(back[1 : 1 + len(d)])
            found = {"h": h, "dx": dx} | dict(zip(("h_T", "c_T"), states, strict=False))
            found |= {f"d{name}": a for name, a in zip(cell.states(), d, strict=True)}
            assert_same(found, expected, [name for name in found if name[0] != "d"])
            for name in ("dx", "dh0"):
                bound = 16 * np.finfo(dtype).eps * max(1, np.abs(expected[name]).max(initial=0))
                np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=bound, err_msg=name)


@variants
@dtypes
def test_rows_alone_flat_rows_and_prepared(cell, options, dtype):
    rng = np.random.default_rng(4)
    for N, T, D, H, delays in SIZES:
        call, gradients = drawn(cell, dtype, N=N, T=T, D=D, H=H, delays=delays)
        keywords = dict(options) | {"delays": delays}
        lengths = rng.integers(0, T + 1, N)
        whole = run(cell, fastgate, call, gradients, lengths=lengths, **keywords)
        flat = np.arange(T) < lengths[:, None]
        offsets = np.append(0, lengths.cumsum())
        found = run(cell, fastgate, call | {"x": call["x"][flat]}, gradients | {"dh": gradients["dh"][flat]}, ragged=True,
                    offsets=offsets, **keywords)  # fmt: skip
        assert_same(found, whole | {name: whole[name][flat] for name in ("h", "dx")})
        rows = [int(rng.integers(N))]
        one = (taken(arrays, cell, rows) for arrays in (call, gradients))
        found = run(cell, fastgate, *one, lengths=lengths[rows], **keywords)
        assert_same(of_rows(found, slice(None)), of_rows(whole, rows))
        prepared, left = prepare(cell, call, **keywords)
        assert_same(prepared.forward(**left, lengths=lengths, training=False)._asdict(), whole, ["h", "h_T"])
        np.testing.assert_array_equal(prepared.delays, delays)
        assert not prepared.delays.flags.writeable
        assert prepared.Wh.shape == call["Wh"].shape


@variants
@dtypes
def test_threads(cell, options, dtype):
    for N, T, D, H, delays in SIZES[3:]:
        call, gradients = drawn(cell, dtype, N=N, T=T, D=D, H=H, delays=delays)
        keywords = dict(options) | {"delays": delays}
        expected = run(cell, fastgate, call, gradients, **keywords)
        for threads in (2, 3):
            _kernels._share_everything(True)
            _kernels.set_num_threads(threads)
            try:
                found = run(cell, fastgate, call, gradients, **keywords)
            finally:
                _kernels._share_everything(False)
                _kernels.set_num_threads(1)
            assert_same(found, expected)


def hashes():
    """A line for each cell: its variant and a hash of all results."""
    for (cell, options), dtype in itertools.product(SMOOTH, (np.float32, np.float64)):
        results = []
        for N, T, D, H, delays in SIZES:
            call, gradients = drawn(cell, dtype, N=N, T=T, D=D, H=H, delays=delays)
            keywords = dict(options) | {"lengths": np.random.default_rng(N).integers(0, T + 1, N), "delays": delays}
            results.append(run(cell, fastgate, call, gradients, **keywords))
        print(variant_id((cell, options)), dtype.__name__, digest(results))


@pytest.mark.skipif(len(FMA_LEVELS) < 2, reason="one level with FMA")
def test_levels_agree():
    printed = {level: output_at(level, __file__) for level in LEVELS}
    assert len({printed[level] for level in FMA_LEVELS}) == 1
    assert all(text.count("\n") == 2 * len(SMOOTH) for text in printed.values())


# --- arguments -----------------------------------------------------------------------------------------------------


@every_module
@cells
@each("H", [9, 1])
def test_any_layout(module, cell, H):
    """Delays in any form, states and weights in any strides, one history for all rows, out= that overlaps: the same bits."""
    N, T, D, delays = 4, 6, 5, (1, 2, 4)
    call, gradients = drawn(cell, N=N, T=T, D=D, H=H, delays=delays)
    expected = run(cell, module, call, gradients, delays=delays)
    before = digest(call, gradients)
    for form in (list(delays), np.array(delays, np.uint8), np.array(delays, ">i8"), np.repeat(delays, 2)[::2]):
        assert_same(run(cell, module, call, gradients, delays=form), expected)
    K, P, GH = call["Wh"].shape
    h0, dh_T = np.full((2, N, 9, P), np.nan)[:, :, ::2][:, :, :4]
    h0[...], dh_T[...] = call["h0"], gradients["dh_T"]
    for Wh in (call["Wh"].transpose(2, 0, 1).copy().transpose(1, 2, 0), call["Wh"].transpose(1, 0, 2).copy().transpose(1, 0, 2),
               np.repeat(call["Wh"], 2, axis=1)[:, ::2], np.asfortranarray(call["Wh"])):  # fmt: skip
        found = run(cell, module, call | {"Wh": Wh, "h0": h0}, gradients | {"dh_T": dh_T}, delays=delays)
        assert_same(found, expected)
    shared = call | {"h0": call["h0"][1]}
    alike = run(cell, module, call | {"h0": np.repeat(call["h0"][1:2], N, axis=0)}, gradients, delays=delays)
    found = run(cell, module, shared, gradients, delays=delays)
    np.testing.assert_allclose(found.pop("dh0"), alike["dh0"].sum(axis=0), rtol=0, atol=1e-14)
    assert_same(found, alike, found)

    h0 = call["h0"].copy()
    forward, backward = cell.function(module, "forward"), cell.function(module, "backward")
    result = forward(**call | {"h0": h0}, delays=delays, out={"h_T": h0})
    np.testing.assert_array_equal(h0, expected["h_T"])
    assert result.h_T is h0
    wide = np.zeros((2, N, 8, P))
    h_T, dh0 = wide[:, :, ::2]
    assert forward(**call, delays=delays, out={"h_T": h_T}).h_T is h_T
    dWh = np.empty((P, K, GH)).swapaxes(0, 1)
    back = backward(cache=forward(**call, delays=delays).cache, **gradients, out={"dWh": dWh, "dh0": dh0})
    assert back.dWh is dWh
    for found, name in ((h_T, "h_T"), (dh0, "dh0"), (dWh, "dWh")):
        np.testing.assert_array_equal(found, expected[name])
    assert not wide[:, :, 1::2].any()
    assert digest(call, gradients) == before


@every_module
def test_a_history_that_no_memory_holds(module):
    """Nor its addresses, though the states have no numbers."""
    one = np.ones(1)
    for H, delays, kind in ((4, [2**40], MemoryError), (4, [1, 2**61], OverflowError), (0, [2**57], MemoryError),
                            (4, np.broadcast_to(1, 2**40), MemoryError)):  # fmt: skip
        Wx, Wh = np.broadcast_to(one, (2, H)), np.broadcast_to(one, (min(len(delays), 2), H, H))
        with pytest.raises(kind, match=r"^delays: "):
            module.rnn_forward(np.ones((3, 4, 2)), None, Wx, Wh, delays=delays)
        if module is fastgate and len(delays) < 3:
            with pytest.raises(kind, match=r"^delays: "):
                fastgate.RNNCell(Wx, Wh, delays=delays).step(np.ones((3, 2)))


def test_instruments_know_nothing_of_it():
    call, _ = drawn(CELLS[0], N=2, T=3, D=4, H=5, delays=(1,))
    with pytest.raises(ValueError, match=r"^model: expected one without delays=, which"):
        flow.trace(prepare(CELLS[0], call, delays=(1,))[0], call["x"])


@every_module
@cells
def test_nothing_to_do(module, cell):
    for sizes in ({"N": 0, "T": 3}, {"N": 2, "T": 0}):
        call, gradients = drawn(cell, D=3, H=9, delays=(2, 5), **sizes)
        found = run(cell, module, call, gradients, delays=(2, 5))
        np.testing.assert_array_equal(found["h_T"], call["h0"])
        np.testing.assert_array_equal(found["dh0"], gradients["dh_T"])
        assert not found["dWh"].any()
        assert found["dWh"].shape == call["Wh"].shape


@every_module
@cells
def test_bad_calls_name_the_argument(module, cell):
    call, gradients = drawn(cell, N=3, T=4, D=5, H=6, delays=(1, 3))
    GH = call["Wx"].shape[1]
    forward, backward = cell.function(module, "forward"), cell.function(module, "backward")
    cases = [
        ({"delays": 2}, ValueError, r"delays: expected \(K,\) integers >= 1 that rise, K > 0, got 2; pass \(2,\)\?$"),
        ({"delays": ()}, ValueError, r"delays: expected \(K,\) .*, got \(0,\)"),
        ({"delays": (0, 3)}, ValueError, r"delays: expected integers >= 1 and < 2\*\*62 that rise, got 0"),
        ({"delays": (3, 1)}, ValueError, "delays: .*, got 1 after 3"),
        ({"delays": (3, 3)}, ValueError, "delays: .*, got 3 after 3"),
        ({"delays": (1.0, 3.0)}, TypeError, "delays: expected integers, got float64"),
        ({"delays": "13"}, TypeError, "delays: expected integers"),
        ({"delays": None}, ValueError, "h0: expected|Wh: expected"),
        ({"delays": (1, 2)}, ValueError, r"h0: expected \(N, d, H\) or \(d, H\) = \(3, 2, 6\) or \(2, 6\), got \(3, 3, 6\)"),
        ({"delays": (1, 2, 3)}, ValueError, rf"Wh: expected \(K, H, \d?H\) = \(3, 6, {GH}\), got \(2, 6, {GH}\)"),
        ({"Wh": call["Wh"][0]}, ValueError, rf"Wh: expected \(K, H, \d?H\) = \(2, 6, {GH}\), got \(6, {GH}\)"),
        ({"memory": 10**9}, ValueError, "memory: expected None beside delays, got 1000000000"),
    ]  # fmt: skip
    for change, kind, words in cases:
        with pytest.raises(kind, match="^(" + words + ")"):
            forward(**{**call, "delays": (1, 3), **change})
    cache = forward(**call, delays=(1, 3)).cache
    with pytest.raises(ValueError, match=r"^dh_T: expected \(N, d, H\) = \(3, 3, 6\), got \(3, 6\)"):
        backward(cache=cache, **gradients | {"dh_T": gradients["dh_T"][:, 0]})
    if module is fastgate:
        with pytest.raises(ValueError, match=r"^Wh: expected"):
            getattr(fastgate, cell.prepared)(**weights_of(call))
    if cell.name == "leaky":
        with pytest.raises(ValueError, match=r"^delays: expected None beside Wh=None, got some"):
            forward(**call | {"Wh": None}, delays=(1, 3))


if __name__ == "__main__":
    hashes()
