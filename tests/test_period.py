"""period= and start=: units on several time scales, around every cell."""

import inspect
import itertools
import sys

import numpy as np
import pytest
from levels import FMA_LEVELS, LEVELS, output_at
from support import (
    CELLS,
    VARIANTS,
    assert_same,
    definition,
    differentiate,
    digest,
    each,
    every_module,
    prepare,
    random_call,
    run,
    upstream,
    variant_id,
    weights_of,
)
from test_accuracy import FORWARD, LONG, SHORT, errors, ordinary_call, widened
from test_same_bits import of_rows, taken

import fastgate
from fastgate import _kernels, reference

VARIANTS = [v for v in VARIANTS if v[0].holds]
SMOOTH = [v for v in VARIANTS if not any("clip" in name or value == "relu" for name, value in v[1])]
variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
smooth = pytest.mark.parametrize(("cell", "options"), SMOOTH, ids=map(variant_id, SMOOTH))
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
dtypes = each("dtype", [np.float32, np.float64])
# N, T, D, H: round the lane counts, weights read as they lie and in panels, panels of units that hold as a whole
SIZES = [(1, 1, 1, 1), (3, 7, 5, 7), (2, 9, 16, 8), (9, 4, 3, 9), (1, 12, 6, 15), (26, 3, 8, 17), (2, 5, 31, 33),
         (1, 2, 3, 130), (5, 11, 4, 65), (34, 6, 2, 70)]  # fmt: skip


def drawn(cell, dtype=np.float64, *, N, T, D, H, step=False, seed=0):
    """(arguments, upstream gradients, {period, start}); two in three periods are sorted, so that whole panels hold."""
    rng = np.random.default_rng([N, T, D, H, step, seed])
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype, step=step)
    period = rng.choice([1, 2, 3, 5], H)
    if rng.random() < 0.67:
        period.sort()
    return call, upstream(cell, rng, call, step), {"period": period, "start": int(rng.integers(7))}


def ways(cell, rng, N, T, H):
    yield {}
    yield {"reverse": True}
    yield {"lengths": rng.integers(0, T + 1, N)}
    yield {"lengths": rng.integers(0, T + 1, N), "reverse": True}
    yield masks(cell, rng, N, T, H)
    yield {"zoneout_h": 0.25} | {"lengths": rng.integers(0, T + 1, N)}
    if cell.has_c:
        yield {"zoneout_c": 0.25}


def masks(cell, rng, N, T, H):
    """Recurrent dropout and zoneout around the same cell."""
    zoneout = {f"zoneout_{state[0]}": rng.random((N, T, H)) < 0.4 for state in cell.states()}
    return {"recurrent_mask": rng.random((N, H)) < 0.7} | zoneout


# --- what it computes ----------------------------------------------------------------------------------------------


@every_module
@variants
@dtypes
def test_a_unit_holds_between_its_steps(module, cell, options, dtype):
    """Bit for bit the plain step, after which units that hold get their states back."""
    for N, T, D, H in SIZES:
        call, _, keywords = drawn(cell, dtype, N=N, T=T, D=D, H=H)
        found = run(cell, module, call, training=False, **keywords, **dict(options))
        states, h, weights = [call[name] for name in cell.states()], np.empty((N, T, H), dtype), weights_of(call)
        for t in range(T):
            *after, _ = cell.function(module, "step_forward")(call["x"][:, t], *states, **weights, **dict(options))
            moves = (keywords["start"] + t) % keywords["period"] == 0
            states = [np.where(moves, new, old) for new, old in zip(after, states, strict=True)]
            h[:, t] = states[0]
        expected = {"h": h} | dict(zip(("h_T", "c_T"), states, strict=False))
        if module is fastgate:
            assert_same(found, expected)
        for name, a in expected.items():
            np.testing.assert_allclose(found[name], a, rtol=0, atol=16 * np.finfo(dtype).eps, err_msg=name)


@definition
@smooth
@each("step", [False, True])
def test_gradients_equal_finite_differences(cell, options, step):
    """Along a random direction of each argument and of all: relative error <= 1e-7."""
    masked = masks(cell, np.random.default_rng(0), 3, 5, 6)
    for seed, way in enumerate(({},) if step else ({}, {"reverse": True}, {"lengths": [5, 0, 3]}, masked)):
        call, gradients, keywords = drawn(cell, N=3, T=5, D=4, H=6, step=step, seed=seed)
        keywords |= dict(options) | way
        differentiate(cell, call, gradients, seed, step, **keywords)


@smooth
@dtypes
def test_kernels_against_the_reference(cell, options, dtype):
    bound = 1e-12 if dtype is np.float64 else 32 * np.finfo(dtype).eps
    for N, T, D, H in SIZES:
        for way in ways(cell, np.random.default_rng(H), N, T, H):
            call, gradients, keywords = drawn(cell, dtype, N=N, T=T, D=D, H=H)
            keywords |= dict(options) | way
            wide = ({name: a.astype(np.float64) for name, a in arrays.items()} for arrays in (call, gradients))
            exact = run(cell, reference, *wide, **keywords)
            _kernels._prefill(0xFF)  # signalling NaN: what is not computed is not used
            try:
                found = run(cell, fastgate, call, gradients, **keywords)
            finally:
                _kernels._prefill(-1)
            assert found.keys() == exact.keys()
            for name, a in exact.items():
                np.testing.assert_allclose(found[name], a, rtol=0, atol=bound * max(1, np.abs(a).max(initial=0)), err_msg=name)


@variants
@dtypes
@pytest.mark.parametrize(("T", "bound"), [(64, SHORT), (200, LONG)])
def test_ulp(cell, options, dtype, T, bound):
    """In units of the last place of the largest exact value, ordinary weights, against the reference in 80 bits."""
    H = 24
    call, gradients = ordinary_call(cell, options, dtype, 3, T, 12, H, 0)
    keywords = dict(options) | {"period": np.random.default_rng(T).choice([1, 2, 3, 7], H), "start": 3}
    exact = run(cell, reference, widened(call), widened(gradients), **keywords)
    for name, error in errors(run(cell, fastgate, call, gradients, **keywords), exact, dtype).items():
        assert error <= (bound if name.startswith("d") else FORWARD), name


@every_module
@cells
def test_a_state_that_is_held_passes_its_gradient(module, cell):
    """No step moves: states come out as they went in, and so do their gradients; nothing else has one."""
    call, gradients, _ = drawn(cell, N=3, T=4, D=5, H=9)
    del gradients["dh"]
    found = run(cell, module, call, gradients | {"dh": None}, period=100, start=1)
    for state, end in zip(cell.states(), ("h_T", "c_T"), strict=False):
        np.testing.assert_array_equal(found[end], call[state])
        np.testing.assert_array_equal(found[f"d{state}"], gradients[f"d{end}"])
    np.testing.assert_array_equal(found["h"], np.repeat(call["h0"][:, None], 4, axis=1))
    for name in ("dx", "dWx", "dWh", "db", "dbh"):
        assert not found[name].any()


# --- the same bits -------------------------------------------------------------------------------------------------


@variants
@dtypes
def test_a_period_of_one_is_none(cell, options, dtype):
    for N, T, D, H in SIZES[::2]:
        call, gradients, _ = drawn(cell, dtype, N=N, T=T, D=D, H=H)
        plain = run(cell, fastgate, call, gradients, **dict(options))
        for keywords in ({"period": 1}, {"period": np.ones(H, np.uint8), "start": 3}, {"start": 5}):
            assert_same(run(cell, fastgate, call, gradients, **keywords, **dict(options)), plain)


@variants
@dtypes
def test_chunks_and_steps_equal_the_whole(cell, options, dtype):
    """Forward, and backward but for the weight gradients, whose sums the chunks would cut."""
    for (N, T, D, H), reverse in itertools.product(SIZES, (False, True)):
        call, gradients, keywords = drawn(cell, dtype, N=N, T=T, D=D, H=H)
        period, start = keywords.values()
        expected = run(cell, fastgate, call, gradients, reverse=reverse, **keywords, **dict(options))
        prepared, _ = prepare(cell, call, period=period, **dict(options))
        places = range(T)[:: -1 if reverse else 1]
        for cuts in ((0, T // 3, T // 2, T), range(T + 1)):
            states, caches = [call[name] for name in cell.states()], []
            h, dx = np.empty((N, T, H), dtype), np.empty((N, T, D), dtype)
            for first, end in itertools.pairwise(cuts):
                times = sorted(places[first:end])
                piece = slice(times[0], times[-1] + 1) if times else slice(0, 0)
                step = end - first == 1
                arguments = {"x": call["x"][:, times[0]] if step else call["x"][:, piece]} | weights_of(call)
                arguments |= dict(zip(cell.states(step), states, strict=True))
                way = {} if step else {"reverse": reverse}
                forward = cell.function(fastgate, "step_forward" if step else "forward")
                result = forward(**arguments, period=period, start=start + first, **way, **dict(options))
                if step:
                    stepped = prepared.step(arguments["x"], *states, start=start + first)
                    stepped = stepped if cell.has_c else (stepped,)
                    for a, b in zip(stepped, result, strict=False):
                        np.testing.assert_array_equal(a, b)
                    h[:, times[0]] = result[0]
                    states = list(result[:-1])
                else:
                    h[:, piece] = result.h
                    states = list(result[1:-1])
                caches.append((step, times[0] if step else piece, result.cache))
            d = [gradients[name] for name in ("dh_T", "dc_T")[: len(states)]]
            for step, place, cache in reversed(caches):
                if step:
                    back = cell.function(fastgate, "step_backward")(d[0] + gradients["dh"][:, place], *d[1:], cache)
                else:
                    ends = dict(zip(("dh_T", "dc_T"), d, strict=False))
                    back = cell.function(fastgate, "backward")(gradients["dh"][:, place], cache, **ends)
                dx[:, place], d = back.dx, list(back[1 : 1 + len(d)])
            found = {"h": h, "dx": dx} | dict(zip(("h_T", "c_T"), states, strict=False))
            assert_same(found | {f"d{name}": a for name, a in zip(cell.states(), d, strict=True)}, expected, [*found, "dh0"])


@variants
@dtypes
def test_rows_alone_flat_rows_prepared_and_little_memory(cell, options, dtype):
    rng = np.random.default_rng(4)
    for N, T, D, H in SIZES:
        call, gradients, keywords = drawn(cell, dtype, N=N, T=T, D=D, H=H)
        keywords |= dict(options)
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

        start = keywords.pop("start")
        prepared, left = prepare(cell, call, **keywords)
        assert_same(prepared.forward(**left, lengths=lengths, start=start, training=False)._asdict(), whole, ["h", "h_T"])
        np.testing.assert_array_equal(prepared.period, keywords["period"])
        assert not prepared.period.flags.writeable
        forward = cell.function(fastgate, "forward")
        with pytest.raises(ValueError, match="memory: expected at least") as error:
            forward(**call, lengths=lengths, start=start, memory=1, **keywords)
        least = int(str(error.value).split(" bytes")[0].split()[-1])
        assert_same(run(cell, fastgate, call, gradients, lengths=lengths, start=start, memory=least, **keywords), whole)


@variants
@dtypes
def test_threads(cell, options, dtype):
    for N, T, D, H in SIZES[3:]:
        call, gradients, keywords = drawn(cell, dtype, N=N, T=T, D=D, H=H)
        expected = run(cell, fastgate, call, gradients, **keywords, **dict(options))
        for threads in (2, 3):
            _kernels._share_everything(True)
            _kernels.set_num_threads(threads)
            try:
                found = run(cell, fastgate, call, gradients, **keywords, **dict(options))
            finally:
                _kernels._share_everything(False)
                _kernels.set_num_threads(1)
            assert_same(found, expected)


def hashes():
    """A line for each cell: its variant and a hash of all results."""
    for (cell, options), dtype in itertools.product(SMOOTH, (np.float32, np.float64)):
        results = []
        for N, T, D, H in SIZES:
            call, gradients, keywords = drawn(cell, dtype, N=N, T=T, D=D, H=H)
            keywords |= dict(options) | {"lengths": np.random.default_rng(N).integers(0, T + 1, N)}
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
def test_a_period_in_any_form(module, cell):
    """Any integers, any layout, one for all units; read before the call returns, never written."""
    call, gradients, keywords = drawn(cell, N=3, T=6, D=5, H=9)
    period = keywords["period"]
    expected = run(cell, module, call, gradients, **keywords)
    swapped = period.astype(np.dtype(np.int32).newbyteorder())
    strided = np.repeat(period, 2)[::2]
    for form in (period.astype(np.uint16), period.tolist(), tuple(period), strided, swapped, period[::-1].copy()[::-1]):
        before = digest(form) if isinstance(form, np.ndarray) else list(form)
        assert_same(run(cell, module, call, gradients, **keywords | {"period": form}), expected)
        assert before == (digest(form) if isinstance(form, np.ndarray) else list(form))
    alike = [run(cell, module, call, gradients, period=form, start=1) for form in (3, np.int8(3), np.full(9, 3), np.array(3))]
    for other in alike[1:]:
        assert_same(other, alike[0])
    changed = period.copy()
    cache = cell.function(module, "forward")(**call, **keywords | {"period": changed}).cache
    changed[:] = 1
    assert_same(cell.function(module, "backward")(cache=cache, **gradients)._asdict(), expected, ["dx", "dWh", "dh0"])
    huge = run(cell, module, call, gradients, period=2**62 - 1, start=2**62 - 2)
    np.testing.assert_array_equal(huge["h"][:, 0], call["h0"])
    assert (huge["h"][:, 1] != call["h0"]).all()
    assert_same(huge, run(cell, module, call, gradients, period=100, start=99))


@every_module
@cells
def test_nothing_to_do(module, cell):
    for sizes in ({"N": 0, "T": 3}, {"N": 2, "T": 0}):
        call, gradients, keywords = drawn(cell, D=3, H=9, **sizes)
        found = run(cell, module, call, gradients, **keywords)
        np.testing.assert_array_equal(found["h_T"], call["h0"])
        np.testing.assert_array_equal(found["dh0"], gradients["dh_T"])
        assert not found["dWh"].any()


@every_module
@cells
def test_what_is_not_finite_stays_in_its_row_and_a_held_unit_keeps_its_state(module, cell):
    call, _, _ = drawn(cell, N=3, T=4, D=5, H=9)
    call["x"][1, 0] = np.nan
    period = np.where(np.arange(9) < 4, 1, 3)
    with np.errstate(invalid="ignore"):
        h = run(cell, module, call, training=False, period=period, start=1)["h"]
    np.testing.assert_array_equal(h[1, 0, 4:], call["h0"][1, 4:])
    assert np.isnan(h[1, 0, :4]).all()
    assert np.isfinite(h[[0, 2]]).all()


ERRORS = [
    ({"period": 0}, ValueError, "period: expected integers >= 1 and < 2**62, got 0"),
    ({"period": [1, 2, 1, -3, 1, 1, 1]}, ValueError, "period: expected integers >= 1 and < 2**62, got -3 for unit 3"),
    ({"period": np.full(7, 2**63, np.uint64)}, ValueError,
     "period: expected integers >= 1 and < 2**62, got 9223372036854775808 for unit 0"),
    ({"period": [1, 2]}, ValueError, "period: expected an integer or (H,) = (7,) integers, got (2,)"),
    ({"period": np.ones((7, 1), int)}, ValueError, "period: expected an integer or (H,) = (7,) integers, got (7, 1)"),
    ({"period": 2.0}, TypeError, "period: expected integers, got float64; pass np.asarray(period, np.int64)"),
    ({"period": True}, TypeError, "period: expected integers, got bool; pass np.asarray(period, np.int64)"),
    ({"period": "2"}, TypeError, "period: expected integers, got str"),
    ({"start": -1}, ValueError, "start: expected an integer >= 0 and < 2**62, got -1"),
    ({"start": 2**62}, ValueError, f"start: expected an integer >= 0 and < 2**62, got {2**62}"),
    ({"start": 1.0}, TypeError, "start: expected an integer >= 0, got float 1.0"),
    ({"start": None}, TypeError, "start: expected an integer >= 0, got None"),
    ({"start": True, "period": 2}, TypeError, "start: expected an integer >= 0, got bool True"),
]  # fmt: skip


@every_module
@cells
@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors(module, cell, wrong, error, message):
    sequence, step = (random_call(cell, np.random.default_rng(0), N=3, T=4, D=5, H=7, step=step) for step in (False, True))
    flat = sequence | {"x": sequence["x"].reshape(12, 5), "offsets": [0, 4, 8, 12]}
    calls = [(cell.function(module, name), arguments)
             for name, arguments in (("forward", sequence), ("step_forward", step), ("ragged_forward", flat))]  # fmt: skip
    if module is fastgate:
        prepared, left = prepare(cell, step)
        if "period" in wrong and "start" not in wrong:
            calls.append((type(prepared), weights_of(step)))
        elif "period" not in wrong:
            calls += [(prepared.step, left), (prepared.forward, {"x": sequence["x"]})]
    for function, arguments in calls:
        before = digest(arguments)
        with pytest.raises(error) as caught:
            function(**arguments, **wrong)
        assert str(caught.value) == message
        assert digest(arguments) == before


@cells
def test_a_prepared_cell_keeps_its_period(cell):
    """When it is copied, pickled, updated and shown."""
    import copy
    import pickle

    call, _, keywords = drawn(cell, N=3, T=4, D=5, H=9, step=True)
    prepared, left = prepare(cell, call, period=keywords["period"])
    assert "period" in repr(prepared)
    assert prepare(cell, call)[0].period is None
    expected = prepared.step(**left, start=2)
    for other in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        np.testing.assert_array_equal(other.step(**left, start=2), expected)
    prepared.update(**weights_of(call))
    np.testing.assert_array_equal(prepared.step(**left, start=2), expected)
    out = left["h_prev"].copy()
    result = prepared.step(left["x"], out, *list(left.values())[2:], out={"h_next": out}, start=2)
    np.testing.assert_array_equal(result, expected)
    for name in ("step", "forward"):
        assert inspect.signature(getattr(prepared, name)).parameters["start"].default == 0


if __name__ == "__main__":
    sys.exit(hashes())
