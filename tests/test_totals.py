"""dh_total and dc_total: the gradients of the states after each step, from the backward pass itself."""

import itertools

import numpy as np
import pytest
from support import CELLS, VARIANTS, assert_same, each, random_call, values, variant_id
from support import upstream as upstream_of

import fastgate
from fastgate import reference

TOTALS = ("dh_total", "dc_total")
SIZES = ((3, 5, 4, 7), (1, 6, 5, 16), (18, 4, 33, 17), (33, 3, 9, 34), (5, 140, 3, 5), (2, 3, 150, 140), (8, 9, 15, 31))
EMPTY = ((0, 3, 4, 5), (3, 0, 4, 5))

variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
dtypes = each("dtype", [np.float32, np.float64])


def totals_of(cell):
    return TOTALS[: 1 + cell.has_c]


def both(cell, module, call, upstream, need=None, out=None, **keywords):
    found = cell.function(module, "forward")(**call, **keywords)
    return cell.function(module, "backward")(cache=found.cache, **upstream, need=need, out=out)


def drawn(cell, rng, N, T, D, H, dtype=np.float64, ragged=False):
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype)
    keywords = {"lengths": rng.integers(0, T + 1, N), "reverse": True} if ragged else {}
    return call, upstream_of(cell, rng, call), keywords


def states_after(cell, call, options, t):
    """h and c after step t, from the call on the steps before."""
    found = cell.function(fastgate, "forward")(**call | {"x": call["x"][:, : t + 1]}, **options)
    return dict(zip(cell.states(), found[1:-1], strict=True))


@variants
@dtypes
def test_it_is_the_gradient_of_the_initial_state_of_what_follows(cell, options, dtype):
    """Bit for bit: dh_total[:, t] is dh0 of the steps after t, and dh[:, t] added; dc_total[:, t] is their dc0."""
    options = dict(options)
    for N, T, D, H in SIZES[:4]:
        call, upstream, _ = drawn(cell, np.random.default_rng(N), N, T, D, H, dtype)
        found = both(cell, fastgate, call, upstream, totals_of(cell), **options)
        for t in range(T):
            rest = call | states_after(cell, call, options, t) | {"x": call["x"][:, t + 1 :]}
            later = both(cell, fastgate, rest, upstream | {"dh": upstream["dh"][:, t + 1 :]}, **options)
            expected = {"dh_total": later.dh0 + upstream["dh"][:, t]} | ({"dc_total": later.dc0} if cell.has_c else {})
            assert_same({name: getattr(found, name)[:, t].copy() for name in expected}, expected)


@variants
def test_kernels_against_the_reference(cell, options):
    rng = np.random.default_rng(0)
    for sizes, ragged in itertools.product(SIZES + EMPTY, (False, True)):
        call, upstream, keywords = drawn(cell, rng, *sizes, ragged=ragged)
        keywords |= dict(options)
        names = both(cell, fastgate, call, upstream, **keywords)._fields
        need = names + totals_of(cell)
        found, exact = (both(cell, module, call, upstream, need, **keywords) for module in (fastgate, reference))
        assert found._fields == exact._fields == need
        for name, size in zip(totals_of(cell), cell.sizes(call), strict=True):
            mine, theirs = getattr(found, name), getattr(exact, name)
            assert mine.shape == (*call["x"].shape[:2], size)
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max(initial=0))
            for n, length in enumerate(keywords.get("lengths", ())):
                assert not mine[n, length:].any()


@variants
@dtypes
def test_the_other_gradients_keep_their_bits(cell, options, dtype):
    call, upstream, keywords = drawn(cell, np.random.default_rng(2), 18, 9, 5, 33, dtype, ragged=True)
    keywords |= dict(options)
    plain = both(cell, fastgate, call, upstream, **keywords)
    full = both(cell, fastgate, call, upstream, plain._fields + totals_of(cell), **keywords)
    assert_same(plain._asdict(), full._asdict(), plain._fields)
    alone = both(cell, fastgate, call, upstream, totals_of(cell), **keywords)
    assert alone[: len(plain)] == (None,) * len(plain)
    assert_same({name: getattr(alone, name) for name in totals_of(cell)}, full._asdict(), totals_of(cell))


@variants
def test_threads_memory_flat_rows_and_order(cell, options):
    """The same bits with more threads, from checkpoints, on flat rows, time-major, and row by row."""
    N, T = 9, 40
    call, upstream, _ = drawn(cell, np.random.default_rng(3), N, T, 20, 150)
    lengths, options, need = np.array([40, 0, 3, 40, 17, 9, 1, 25, 39]), dict(options), totals_of(cell)
    expected = both(cell, fastgate, call, upstream, need, lengths=lengths, **options)
    expected = {name: getattr(expected, name) for name in need}

    def same(found):
        assert_same({name: getattr(found, name) for name in need}, expected)

    before = fastgate.get_num_threads()
    try:
        for threads in (2, 3):
            fastgate.set_num_threads(threads)
            same(both(cell, fastgate, call, upstream, need, lengths=lengths, **options))
    finally:
        fastgate.set_num_threads(before)
    same(both(cell, fastgate, call, upstream, need, lengths=lengths, memory=20_000_000, **options))
    with pytest.raises(ValueError, match=r"memory: expected at least (\d+) bytes") as caught:
        both(cell, fastgate, call, upstream, need, lengths=lengths, memory=1, **options)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    same(both(cell, fastgate, call, upstream, need, lengths=lengths, memory=least, **options))

    time_major = call | {"x": np.ascontiguousarray(call["x"].swapaxes(0, 1)).swapaxes(0, 1)}
    found = both(cell, fastgate, time_major, upstream, need, lengths=lengths, **options)
    same(found)
    assert all(getattr(found, name).swapaxes(0, 1).flags.c_contiguous for name in need)

    places = np.concatenate([n * T + np.arange(length) for n, length in enumerate(lengths)])
    flat = call | {"x": call["x"].reshape(N * T, -1)[places]}
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ragged = cell.function(fastgate, "ragged_forward")(**flat, offsets=offsets, **options)
    given = upstream | {"dh": upstream["dh"].reshape(N * T, -1)[places]}
    found = cell.function(fastgate, "ragged_backward")(cache=ragged.cache, **given, need=need)
    exact = cell.function(reference, "ragged_forward")(**flat, offsets=offsets, **options)
    exact = cell.function(reference, "ragged_backward")(cache=exact.cache, **given, need=need)
    for name in need:
        np.testing.assert_array_equal(getattr(found, name), expected[name].reshape(N * T, -1)[places])
        np.testing.assert_allclose(getattr(exact, name), getattr(found, name), rtol=0, atol=1e-12)

    for n in (0, 4):
        rows = {name: a[n : n + 1] if name in ("x", *cell.states()) else a for name, a in call.items()}
        one = {name: a[n : n + 1] for name, a in upstream.items()}
        found = both(cell, fastgate, rows, one, need, lengths=lengths[n : n + 1], **options)
        for name in need:
            np.testing.assert_array_equal(getattr(found, name)[0], expected[name][n])


@cells
def test_out_and_missing_upstream(cell):
    call, upstream, _ = drawn(cell, np.random.default_rng(4), 3, 5, 4, 9)
    need = totals_of(cell)
    expected = both(cell, fastgate, call, upstream, need)
    for module in (fastgate, reference):
        wide = np.full((3, 5, 2, 9), np.nan)
        both(cell, module, call, upstream, need, out={"dh_total": wide[:, :, 0]})
        np.testing.assert_allclose(wide[:, :, 0], expected.dh_total, rtol=0, atol=1e-12)
        assert np.isnan(wide[:, :, 1]).all()
        across = np.empty((3, 9, 5)).swapaxes(1, 2)  # rows that no kernel writes in place
        both(cell, module, call, upstream, need, out={"dh_total": across})
        np.testing.assert_allclose(across, expected.dh_total, rtol=0, atol=1e-12)
        given = {name: a.copy() for name, a in upstream.items()}
        both(cell, module, call, given, need, out={"dh_total": given["dh"]})
        np.testing.assert_allclose(given["dh"], expected.dh_total, rtol=0, atol=1e-12)
        nothing = both(cell, module, call, dict.fromkeys(upstream), need)
        assert not any(getattr(nothing, name).any() for name in need)
        last = both(cell, module, call, upstream | {"dh": None}, need)
        np.testing.assert_array_equal(last.dh_total[:, -1], upstream["dh_T"])


@cells
@pytest.mark.parametrize("module", [fastgate, reference], ids=["fastgate", "reference"])
def test_errors(module, cell):
    call, upstream, _ = drawn(cell, np.random.default_rng(5), 3, 5, 4, 9)
    found = cell.function(module, "forward")(**call)
    backward = cell.function(module, "backward")
    with pytest.raises(ValueError, match=r'^out: expected names among "dx", '):
        backward(cache=found.cache, **upstream, out={"dh_total": np.empty((3, 5, 9))})
    with pytest.raises(ValueError, match=r'^out\["dh_total"\]: expected \(3, 5, 9\), got \(5, 3, 9\)'):
        backward(cache=found.cache, **upstream, need=("dh_total",), out={"dh_total": np.empty((5, 3, 9))})
    with pytest.raises(ValueError, match=r'"dh_total".*got \'dx_total\''):
        backward(cache=found.cache, **upstream, need=("dx_total",))
    if not cell.has_c:
        with pytest.raises(ValueError, match="got 'dc_total'"):
            backward(cache=found.cache, **upstream, need=("dc_total",))
    step = random_call(cell, np.random.default_rng(6), step=True)
    cache = cell.function(module, "step_forward")(**step).cache
    given = {name: values(np.random.default_rng(7), (3, 6)) for name in ("dh_next", "dc_next")[: 1 + cell.has_c]}
    with pytest.raises(ValueError, match="got 'dh_total'"):
        cell.function(module, "step_backward")(cache=cache, **given, need=("dh_total",))
