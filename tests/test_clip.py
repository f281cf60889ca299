"""Clipping: against the reference, against exact sums, and the promises about memory.

Run as a script, it prints the bits that one instruction-set level gives.
"""

import hashlib
import math
import struct

import numpy as np
import pytest
from layouts import LAYOUTS, lay_out

import fastgate
from fastgate import reference

F4, F8, LONG = np.float32, np.float64, np.longdouble
DTYPES = [F4, F8]
SIZES = [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 255, 1000, 8191, 8192, 8224, 20000]
SHAPES = [(0, 5), (5, 0), (1, 1), (3, 5), (1, 100), (100, 1), (2, 63), (63, 64), (7, 65), (8, 64), (17, 200), (64, 64),
          (511, 70), (513, 65), (1030, 66), (5, 1023), (5, 1024), (9, 1025), (3, 4, 5), (4, 3, 70),
          (2, 3, 4, 65), ()]  # fmt: skip
NORM_TYPES = [1, 2, 3, math.inf, 0.5]


def gradient(rng, shape, dtype, scale=1.0):
    """Random values whose magnitudes differ widely; none is zero."""
    values = np.asarray(rng.normal(size=shape) * np.exp(2 * rng.normal(size=shape)))
    return np.asarray((scale * values).astype(dtype))


def exact_norm(arrays, p):
    """The norm in long double, sums by math.fsum of terms rounded to double."""
    flat = np.concatenate([np.abs(np.ravel(g).astype(LONG)) for g in arrays] or [np.zeros(0, LONG)])
    largest = flat.max(initial=0)
    if p == math.inf or largest == 0:
        return float(largest)
    return float(largest * LONG(math.fsum((flat / largest) ** LONG(p))) ** (1 / LONG(p)))


def relative(found, exact):
    return 0.0 if found == exact else abs(found - exact) / abs(exact)


# --- the norm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORM_TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_any_size_and_shape(dtype, p):
    rng = np.random.default_rng(1)
    for shape in [*SIZES, *SHAPES]:
        g = gradient(rng, shape, dtype)
        before = g.copy()
        norm = fastgate.clip_grad_norm([g], math.inf, p)
        assert type(norm) is float
        assert relative(norm, exact_norm([g], p)) <= 2e-15, shape
        assert relative(norm, float(reference.clip_grad_norm([g], math.inf, p))) <= 4e-15, shape
        np.testing.assert_array_equal(g, before)


@pytest.mark.parametrize("p", NORM_TYPES)
def test_one_norm_over_arrays_of_mixed_shapes_and_dtypes(p):
    rng = np.random.default_rng(2)
    grads = [gradient(rng, shape, DTYPES[k % 2], 10.0 ** (k % 7 - 3)) for k, shape in enumerate([*SIZES, *SHAPES])]
    grads.insert(3, None)
    given = [g for g in grads if g is not None]
    exact = exact_norm(given, p)
    for grads_of_a_kind in (grads, tuple(grads), dict(enumerate(grads))):
        assert relative(fastgate.clip_grad_norm(grads_of_a_kind, math.inf, p), exact) <= 2e-15


@pytest.mark.parametrize(
    ("dtype", "size"), [(F4, 1e20), (F4, 1e-30), (F4, 1e-45), (F4, 3e38), (F8, 1e200), (F8, 1e-200), (F8, 5e-324), (F8, 1e307)]
)
@pytest.mark.parametrize("p", NORM_TYPES)
def test_norm_where_powers_overflow_or_underflow(p, dtype, size):
    for shape in (1, 10, (65, 70)):
        g = np.full(shape, size, dtype)
        g.ravel()[1::2] /= 2
        with np.errstate(over="ignore"):
            exact = exact_norm([g], p)
        norm = fastgate.clip_grad_norm([g], math.inf, p)
        if exact == math.inf:  # does not fit a float
            assert norm == math.inf
        else:
            assert abs(norm - exact) <= max(2e-15 * exact, 5e-324)
        if p == 2 and 0 < norm < math.inf:
            clipped = g.copy()
            assert fastgate.clip_grad_norm([clipped], norm / 3) == norm
            expected = (g.astype(LONG) / LONG(exact) * LONG(norm / 3)).astype(dtype)
            np.testing.assert_allclose(clipped, expected, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).smallest_subnormal)


def test_huge_next_to_tiny():
    huge, tiny = np.array([3e200, 4e200]), np.full(5, 1e-200)
    assert relative(fastgate.clip_grad_norm([tiny, huge], math.inf), 5e200) < 1e-15
    assert relative(fastgate.clip_grad_norm([huge, np.ones(3, F4)], math.inf), 5e200) < 1e-15
    assert relative(fastgate.clip_grad_norm([np.full(4, 1e-30, F4), tiny], math.inf), float(2 * LONG(F4(1e-30)))) < 1e-15
    assert fastgate.clip_norm_each([huge, tiny, None, np.zeros(3)], math.inf)[2:] == [0, 0]


def test_nothing_to_measure():
    for nothing in ([], (), {}, [None], [np.zeros(0)], [np.zeros((3, 0), F4)], [np.zeros(7)]):
        for p in NORM_TYPES:
            assert fastgate.clip_grad_norm(nothing, 0.0, p) == 0
    assert fastgate.clip_norm_each([], 1) == []
    assert fastgate.clip_norm_each({}, 1) == {}
    assert fastgate.clip_grad_value([], 1) is None


# --- scaling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled_to_the_norm_and_only_above_it(dtype):
    rng = np.random.default_rng(3)
    eps = np.finfo(dtype).eps
    for shape in [*SIZES, *SHAPES]:
        g, other = gradient(rng, shape, dtype), gradient(rng, 50, dtype)
        norm = fastgate.clip_grad_norm([g, other], math.inf)
        kept = g.copy(), other.copy()
        for max_norm in (norm, 2 * norm, math.inf):
            assert fastgate.clip_grad_norm([kept[0], kept[1]], max_norm) == norm
            np.testing.assert_array_equal(kept[0], g)
            np.testing.assert_array_equal(kept[1], other)
        for factor in (0.9, 1e-3):
            clipped, theirs = g.copy(), g.copy()
            assert fastgate.clip_grad_norm([clipped, other.copy()], factor * norm) == norm
            reference.clip_grad_norm([theirs, other.copy()], factor * norm)
            exact = g.astype(LONG) * (LONG(factor * norm) / LONG(norm))
            np.testing.assert_allclose(clipped, exact.astype(dtype), rtol=eps, atol=0)
            np.testing.assert_allclose(clipped, theirs, rtol=4 * eps, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled_where_the_quotient_is_tiny(dtype):
    info = np.finfo(dtype)
    for size in (1.0, 1e-10, float(info.max) / 4, float(info.tiny) * 8):
        for max_norm in (1e-300, 1e-310, 1e-320, 1e-40, 1e-44, float(info.tiny), 0.0):
            g = np.array([size, -size / 3, size / 7], dtype)
            norm = exact_norm([g], 2)
            if norm <= max_norm:
                continue
            expected = (g.astype(LONG) * (LONG(max_norm) / LONG(norm))).astype(dtype)
            fastgate.clip_grad_norm([g], max_norm)
            np.testing.assert_allclose(g, expected, rtol=2 * info.eps, atol=info.smallest_subnormal)
            np.testing.assert_array_equal(np.signbit(g), [False, True, False])


@pytest.mark.parametrize("p", NORM_TYPES)
def test_result_has_the_norm_that_was_asked_for(p):
    rng = np.random.default_rng(4)
    grads = [gradient(rng, shape, F8) for shape in [(30, 70), 5, (3, 4)]]
    fastgate.clip_grad_norm(grads, 0.25, p)
    assert abs(fastgate.clip_grad_norm(grads, math.inf, p) - 0.25) < 1e-14


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_array_on_its_own(dtype):
    rng = np.random.default_rng(5)
    grads = {f"g{k}": gradient(rng, shape, dtype, 10.0 ** (k % 5 - 2)) for k, shape in enumerate([*SIZES, *SHAPES])}
    grads["none"] = None
    ours, theirs = ({name: None if g is None else g.copy() for name, g in grads.items()} for _ in range(2))
    norms, expected = fastgate.clip_norm_each(ours, 1.5), reference.clip_norm_each(theirs, 1.5)
    assert list(norms) == list(grads)
    assert norms["none"] == 0
    for name, g in grads.items():
        if g is not None:
            assert norms[name] == fastgate.clip_grad_norm([g], math.inf)
            assert relative(norms[name], float(expected[name])) <= 4e-15
            np.testing.assert_allclose(ours[name], theirs[name], rtol=4 * np.finfo(dtype).eps, atol=0)
            if norms[name] <= 1.5:
                np.testing.assert_array_equal(ours[name], g)
    values = [g.copy() for g in grads.values() if g is not None]
    assert fastgate.clip_norm_each(values, 1.5) == [norm for name, norm in norms.items() if name != "none"]
    assert fastgate.clip_norm_each(tuple(values), math.inf) == [fastgate.clip_grad_norm([g], math.inf) for g in values]


@pytest.mark.parametrize("dtype", DTYPES)
def test_by_value(dtype):
    rng = np.random.default_rng(6)
    for shape in [*SIZES, *SHAPES]:
        g = gradient(rng, shape, dtype)
        for limit in (0.3, 2, 1e30, math.inf, 0):
            ours, theirs = g.copy(), g.copy()
            assert fastgate.clip_grad_value({"g": ours}, limit) is None
            reference.clip_grad_value([theirs], limit)
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(ours, np.copysign(np.minimum(np.abs(g), dtype(limit)), g))
    special = np.array([np.inf, -np.inf, np.nan, -0.0, 0.0, 5, -5], dtype)
    fastgate.clip_grad_value([special, None], 2)
    np.testing.assert_array_equal(special, [2, -2, np.nan, 0, 0, 2, -2])
    np.testing.assert_array_equal(np.signbit(special[3:5]), [True, False])
    beyond = np.array([3e38, np.inf, -1], F4)
    fastgate.clip_grad_value([beyond], 1e300)
    np.testing.assert_array_equal(beyond, np.array([3e38, np.inf, -1], F4))


# --- infinity and NaN --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_norm_changes_nothing(dtype, bad):
    rng = np.random.default_rng(7)
    for p in NORM_TYPES:
        for shape, place in [(1, 0), (33, 32), (1000, 500), ((70, 80), 3210), ((3, 5), 14)]:
            first, g = gradient(rng, 40, dtype), gradient(rng, shape, dtype)
            g.ravel()[place] = bad
            before = first.copy(), g.copy()
            norm = fastgate.clip_grad_norm([first, g], 1e-3, p)
            assert math.isnan(norm) if np.isnan(bad) else norm == math.inf
            with pytest.raises(ValueError, match=r"^grads: the norm is (inf|nan); nothing was clipped"):
                fastgate.clip_grad_norm([first, g], 1e-3, p, error_if_nonfinite=True)
            np.testing.assert_array_equal((first, g)[0], before[0])
            np.testing.assert_array_equal((first, g)[1], before[1])
    g, finite = np.array([1, bad, 2], dtype), np.array([3, 4], dtype)
    norms = fastgate.clip_norm_each([g, finite], 1)
    np.testing.assert_array_equal(norms, [np.nan if np.isnan(bad) else np.inf, 5])
    np.testing.assert_array_equal(g, np.array([1, bad, 2], dtype))
    np.testing.assert_allclose(finite, [0.6, 0.8], rtol=np.finfo(dtype).eps)


def test_nan_wins_over_infinity():
    for values in ([np.inf, np.nan, 1], [np.nan, np.inf], [1, np.nan, 2]):
        for p in NORM_TYPES:
            for grads in ([np.array(values, F8)], [np.array([v], F8) for v in values], [np.array(values * 20, F4)]):
                assert math.isnan(fastgate.clip_grad_norm(grads, 1, p))


def test_finite_is_no_error():
    g = np.array([3.0, 4.0])
    assert fastgate.clip_grad_norm([g], 1, error_if_nonfinite=True) == 5
    np.testing.assert_allclose(g, [0.6, 0.8], rtol=4e-16)


# --- memory ------------------------------------------------------------------------------------------------------

WRITEABLE = [name for name in LAYOUTS if name not in ("bytes_swapped", "read_only")]


@pytest.mark.parametrize("layout", WRITEABLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_in_any_layout(dtype, layout):
    rng = np.random.default_rng(8)
    for shape in [33, 1000, *SHAPES[:-1]]:
        plain = gradient(rng, shape, dtype)
        for p in NORM_TYPES:
            norm = fastgate.clip_grad_norm([plain], math.inf, p)
            assert fastgate.clip_grad_norm([lay_out(layout, plain)], math.inf, p) == norm, (shape, p)
        for clip in (
            lambda g: fastgate.clip_grad_norm([g], 0.1),
            lambda g: fastgate.clip_norm_each([g], 0.1),
            lambda g: fastgate.clip_grad_value([g], 0.1),
        ):
            expected, elsewhere = plain.copy(), lay_out(layout, plain)
            clip(expected)
            clip(elsewhere)
            np.testing.assert_array_equal(elsewhere, expected)


def test_nothing_outside_a_view_is_written():
    rng = np.random.default_rng(9)
    for index in (np.s_[1:-1, 2:-2], np.s_[::2, ::3], np.s_[::-1, 3:70], np.s_[:, 5], np.s_[4], np.s_[3:-1:2]):
        for order in "CF":
            whole = np.asarray(gradient(rng, (40, 90), F4), order=order)
            outside = np.ones(whole.shape, bool)
            outside[index] = False
            for clip in (
                lambda g: fastgate.clip_grad_norm([g], 1e-2),
                lambda g: fastgate.clip_norm_each([g], 1e-3),
                lambda g: fastgate.clip_grad_value([g], 1e-4),
            ):
                before = whole.copy()
                clip(whole[index])
                np.testing.assert_array_equal(whole[outside], before[outside])
                assert not np.array_equal(whole[index], before[index])


@pytest.mark.parametrize("offset", range(0, 64, 4))
def test_same_bits_at_any_address(offset):
    values = gradient(np.random.default_rng(10), (50, 64), F4)
    room = np.zeros(values.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    expected = values.copy()
    norm = fastgate.clip_grad_norm([expected], 0.5)
    for order in "CF":
        g = room[start : start + values.nbytes].view(F4).reshape(values.shape, order=order)
        g[...] = values
        assert fastgate.clip_grad_norm([g], 0.5) == norm
        np.testing.assert_array_equal(g, expected)


def test_any_mapping_is_taken():
    """As its type says: the named gradients of a layer are one, and no dict."""
    layer = fastgate.LSTM(3, 4, rng=0)
    layer.gradients[:] = np.arange(layer.num_parameters)
    expected = layer.gradients.copy()
    norm = fastgate.clip_grad_norm([expected], 1.0)
    assert fastgate.clip_grad_norm(layer.grads, 1.0) == pytest.approx(norm)
    np.testing.assert_allclose(layer.gradients, expected, rtol=1e-6)
    fastgate.clip_grad_value(layer.grads, 0.01)
    assert layer.gradients.max() == np.float32(0.01)
    norms = fastgate.clip_norm_each(layer.grads, 1.0)
    assert list(norms) == list(layer.grads)
    assert list(fastgate.reference.clip_norm_each(layer.grads, 1.0)) == list(norms)


def test_a_dict_is_read_once():
    """Another thread may add a key between two readings."""

    class Growing(dict):
        def __iter__(self):
            keys = list(self.keys())
            self[len(self)] = np.ones(3)
            return iter(keys)

    norms = fastgate.clip_norm_each(Growing({0: np.full(4, 2.0)}), 1.0)
    assert norms == {0: 4.0}


def test_refused_before_anything_is_written():
    good, fixed = np.full(5, 10.0), np.full(5, 10.0)
    fixed.flags.writeable = False
    shared = np.full(8, 10.0)
    bad_lists = [
        ([good, fixed], ValueError), ([good, np.arange(3)], TypeError), ([good, 3.0], TypeError), ([good, good], ValueError),
        ([good, shared[:5], shared[4:]], ValueError), ([good, np.broadcast_to(np.ones(1), 3)], ValueError),
        ([good, good.astype(">f8")], TypeError), ([good, np.ones(2, np.float16)], TypeError), (good, TypeError),
    ]  # fmt: skip
    for clip in (fastgate.clip_grad_norm, fastgate.clip_grad_value, fastgate.clip_norm_each):
        for grads, error in bad_lists:
            with pytest.raises(error, match=r"^grads"):
                clip(grads, 1.0)
            if isinstance(grads, list):
                with pytest.raises(error, match=r"^grads\['b'\]|^grads\['c'\]"):
                    clip(dict(zip("abc", grads, strict=False)), 1.0)
        for wrong in (-1, np.nan, "1", None, True):
            with pytest.raises((TypeError, ValueError), match=r"^(max_norm|clip_value): expected a number >= 0"):
                clip([good], wrong)
    for wrong in (0, -2, np.nan, "2"):
        with pytest.raises((TypeError, ValueError), match=r"^norm_type: expected a number > 0"):
            fastgate.clip_grad_norm([good], 1.0, wrong)
    np.testing.assert_array_equal([*good, *shared], 10)


# --- levels ------------------------------------------------------------------------------------------------------


def main():
    rng = np.random.default_rng(11)
    bits = hashlib.sha256()
    for dtype in DTYPES:
        for shape in [*SIZES, *SHAPES[:-1]]:
            for scale in (1, 1e-30, 1e18):
                plain = gradient(rng, shape, dtype, scale)
                for layout in ("plain", "columns_first", "spread", "shifted"):
                    for p in (1, 2, 3, math.inf):
                        g = lay_out(layout, plain)
                        bits.update(struct.pack("d", fastgate.clip_grad_norm([g], 0.5, p)))
                        fastgate.clip_grad_value([g], 1e-2)
                        bits.update(g.tobytes())
    print(bits.hexdigest())


def test_levels_with_fma_give_the_same_bits():
    from levels import FMA_LEVELS, output_at

    assert len({output_at(level, __file__) for level in FMA_LEVELS}) <= 1


if __name__ == "__main__":
    main()
