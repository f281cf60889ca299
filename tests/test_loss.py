"""Softmax cross-entropy: against the reference in long double, finite differences, and the promises about rows.

Run as a script, it prints the bits that one instruction-set level gives.
"""

import hashlib
import struct

import numpy as np
import pytest
from layouts import LAYOUTS, lay_out

import fastgate
from fastgate import reference

F4, F8, LONG = np.float32, np.float64, np.longdouble
DTYPES = [F4, F8]
CLASSES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 65, 1000]
REDUCTIONS = ["sum", "mean", "none"]


def scores(rng, shape, dtype, scale=3.0):
    return np.asarray(scale * rng.normal(size=shape)).astype(dtype)


def in_ulp(found, exact):
    """Distance in units in the last place of the largest exact value of each row of the last axis."""
    found, exact = np.atleast_1d(found), np.atleast_1d(exact)
    largest = np.abs(exact).max(axis=-1, keepdims=True, initial=0).astype(found.dtype)
    return (np.abs(found.astype(LONG) - exact) / np.spacing(np.maximum(largest, np.finfo(found.dtype).tiny))).max(-1, initial=0)


def allowed_ulp(o):
    """4, and one for each unit between the two largest scores: o_k - max o is rounded, and where a row is nearly certain
    its loss and do hang on that difference alone."""
    second, largest = np.moveaxis(np.sort(o.astype(LONG), axis=-1)[..., -2:], -1, 0) if o.shape[-1] > 1 else (0, 0)
    return 4 + (largest - second)


def exact_cross_entropy(o, y):
    """Losses and do in long double, exact also where a row is nearly certain: nothing is subtracted from 1."""
    o, rows = o.astype(LONG).reshape(-1, o.shape[-1]), np.arange(y.size)
    m, o_y = o.max(axis=-1), o[rows, y.ravel()]
    e = np.exp(o - m[:, None])
    e_y = e[rows, y.ravel()]
    e[rows, y.ravel()] = 0
    s = e.sum(axis=-1)
    do = e / (s + e_y)[:, None]
    do[rows, y.ravel()] = -s / (s + e_y)
    with np.errstate(divide="ignore"):
        loss = np.where(o_y == m, np.log1p(s), np.log(s + e_y) + (m - o_y))
    return loss.reshape(y.shape), do.reshape(*y.shape, -1)


# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_within_four_ulp(dtype, K):
    rng = np.random.default_rng(K)
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    for shape in [(), (1,), (3,), (2, 5), (4, 1, 3)]:
        for scale in (0.1, 3, 30):
            o, y = scores(rng, (*shape, K), dtype, scale), rng.integers(0, K, shape)
            exact, exact_do = exact_cross_entropy(o, y)
            for reduction in REDUCTIONS:
                loss, do = fastgate.softmax_cross_entropy(o, y, reduction=reduction)
                theirs, their_do = reference.softmax_cross_entropy(o.astype(LONG), y, reduction=reduction)
                rows = exact.size if reduction == "mean" else 1
                if reduction == "none":
                    assert loss.dtype == dtype
                    assert loss.shape == shape
                    assert (in_ulp(loss[..., None], exact[..., None]) <= allowed_ulp(o)).all()
                else:
                    assert type(loss) is float
                    most = 2 + (allowed_ulp(o) * exact).sum() / max(exact.sum(), tiny)
                    np.testing.assert_allclose(loss, float(exact.sum() / rows), rtol=float(most) * eps, atol=tiny)
                np.testing.assert_allclose(loss, np.asarray(theirs, F8), rtol=4 * eps, atol=4 * eps)
                assert do.dtype == dtype
                assert do.shape == o.shape
                assert (in_ulp(do, exact_do / rows) <= allowed_ulp(o)).all()
                np.testing.assert_allclose(do, np.asarray(their_do, F8), rtol=0, atol=4 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows_stay_within_four_ulp(dtype):
    rng = np.random.default_rng(0)
    o, y = scores(rng, (3, 50_000), dtype), rng.integers(0, 50_000, 3)
    loss, do = fastgate.softmax_cross_entropy(o, y, reduction="none")
    exact, exact_do = exact_cross_entropy(o, y)
    assert (in_ulp(loss[:, None], exact[:, None]) <= 4).all()
    assert (in_ulp(do, exact_do) <= 4).all()
    y_column = np.arange(3), y
    exact_do[y_column] = do[y_column] = 0  # else they hide the small ones
    assert (in_ulp(do, exact_do) <= 4).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_equals_finite_differences(reduction):
    rng = np.random.default_rng(1)
    o, y = scores(rng, (3, 4, 9), F8), rng.integers(0, 9, (3, 4))
    mask = rng.uniform(0.5, 2, (3, 4)) * (rng.random((3, 4)) < 0.7)

    def loss(o):
        return np.sum(fastgate.softmax_cross_entropy(o, y, mask, 2, reduction=reduction)[0])

    _, do = fastgate.softmax_cross_entropy(o, y, mask, 2, reduction=reduction)
    for _ in range(5):
        direction = rng.normal(size=o.shape)
        e = 1e-3
        slopes = [(loss(o + k * e * direction) - loss(o - k * e * direction)) / (2 * k * e) for k in (1, 2)]
        difference = (4 * slopes[0] - slopes[1]) / 3
        assert abs(difference - np.sum(do * direction)) <= 1e-9 * np.linalg.norm(do) * np.linalg.norm(direction)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_any_size(dtype):
    rng = np.random.default_rng(2)
    for scale in (1e4, 1e30, 1e-30):
        o, y = scores(rng, (20, 33), dtype, scale), rng.integers(0, 33, 20)
        y[:5] = o[:5].argmax(-1)
        loss, do = fastgate.softmax_cross_entropy(o, y, reduction="none")
        exact, exact_do = exact_cross_entropy(o, y)
        np.testing.assert_allclose(loss, exact.astype(dtype), rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)
        assert (in_ulp(do, exact_do) <= 4).all()
    biggest = float(np.finfo(dtype).max)
    loss, do = fastgate.softmax_cross_entropy(np.array([biggest, -biggest, 0], dtype), 0)
    assert loss == 0
    np.testing.assert_array_equal(do, [0, 0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearly_certain_rows_keep_their_digits(dtype):
    """loss = log(1 + s) and do_y = -s / (1 + s) for s = sum of e^(o_k - o_y) down to the smallest numbers."""
    for gap in (5, 20, 40, 80):
        o, y = np.zeros((1, 40), dtype), np.array([17])
        o[0, 17] = gap
        loss, do = fastgate.softmax_cross_entropy(o, y)
        s = 39 * np.exp(-LONG(gap))
        np.testing.assert_allclose(loss, float(np.log1p(s)), rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(do[0, 17], float(-s / (1 + s)), rtol=4 * np.finfo(dtype).eps)


def test_float32_sums_are_taken_in_double():
    rng = np.random.default_rng(3)
    o, y = scores(rng, (2000, 10), F4), rng.integers(0, 10, 2000)
    total, _ = fastgate.softmax_cross_entropy(o, y)
    exact, _ = reference.softmax_cross_entropy(o.astype(LONG), y)
    assert abs(total - float(exact)) <= 2e-8 * float(exact)


# --- which rows count --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_and_ignored_classes(dtype, reduction):
    rng = np.random.default_rng(4)
    o, y = scores(rng, (6, 7, 12), dtype), rng.integers(0, 12, (6, 7))
    bools = rng.random((6, 7)) < 0.6
    weights = (rng.uniform(0.1, 3, (6, 7)) * bools).astype(dtype)
    for mask in (None, bools, weights):
        for ignore in (None, 3, -100):
            labels = y.copy()
            if ignore == -100:
                labels[::2, 1] = -100
            loss, do = fastgate.softmax_cross_entropy(o, labels, mask, ignore, reduction=reduction)
            wide = None if mask is None else mask if mask.dtype == bool else mask.astype(LONG)
            exact, exact_do = reference.softmax_cross_entropy(o.astype(LONG), labels, wide, ignore, reduction=reduction)
            np.testing.assert_allclose(loss, exact.astype(F8), rtol=8 * np.finfo(dtype).eps)
            np.testing.assert_allclose(do, exact_do.astype(dtype), rtol=0, atol=8 * np.finfo(dtype).eps * np.abs(do).max())
            silent = (labels == ignore) | (False if mask is None else mask == 0)
            assert silent.any() == (mask is not None or ignore is not None)
            assert not do[silent].any()
            if reduction == "none":
                assert not loss[silent].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_that_do_not_count_may_hold_anything(reduction):
    rng = np.random.default_rng(5)
    o, y = scores(rng, (4, 5, 9), F4), rng.integers(0, 9, (4, 5))
    mask = np.ones((4, 5), bool)
    mask[1, 2] = mask[3] = False
    clean = fastgate.softmax_cross_entropy(o, y, mask, reduction=reduction)
    o[1, 2], o[3, 0], o[3, 1] = np.nan, np.inf, -np.inf
    y[1, 2], y[3, 4] = 77, -(2**40)
    dirty = fastgate.softmax_cross_entropy(o, y, mask, reduction=reduction)
    for before, after in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(before, after)
    y[~mask] = -1
    ignored = fastgate.softmax_cross_entropy(o, y, None, -1, reduction=reduction)
    for before, after in zip(clean, ignored, strict=True):
        np.testing.assert_array_equal(before, after)


def test_nothing_counts():
    o, y = np.ones((2, 3, 4)), np.zeros((2, 3), int)
    for mask, ignore in ((np.zeros((2, 3), bool), None), (np.zeros((2, 3)), None), (None, 0)):
        for reduction in REDUCTIONS:
            loss, do = fastgate.softmax_cross_entropy(o, y, mask, ignore, reduction=reduction)
            assert not np.any(loss)
            np.testing.assert_array_equal(do, np.zeros((2, 3, 4)))


def test_no_rows_no_classes():
    for shape in ((0, 5), (3, 0, 5), (0, 0)):
        for reduction in REDUCTIONS:
            loss, do = fastgate.softmax_cross_entropy(np.zeros(shape, F4), np.zeros(shape[:-1], int), reduction=reduction)
            assert do.shape == shape
            assert np.shape(loss) == (shape[:-1] if reduction == "none" else ())
            assert np.sum(loss) == 0
    loss, do = fastgate.softmax_cross_entropy(np.zeros((3, 0)), np.zeros(3, int), np.zeros(3, bool))
    assert loss == 0
    assert do.shape == (3, 0)
    with pytest.raises(ValueError, match=r"^y: expected 0\.\.K-1"):
        fastgate.softmax_cross_entropy(np.zeros((3, 0)), np.zeros(3, int))


# --- infinity and NaN --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_scores_stay_in_their_row(dtype):
    rng = np.random.default_rng(6)
    for K in (3, 20, 33):
        o, y = scores(rng, (6, K), dtype), np.full(6, 1)
        clean_loss, clean_do = fastgate.softmax_cross_entropy(o, y, reduction="none")
        o[0, 0], o[1, K - 1], o[2, 1] = np.nan, np.inf, np.inf
        o[3, 1:] = -np.inf
        o[4, 1] = np.nan
        loss, do = fastgate.softmax_cross_entropy(o, y, reduction="none")
        assert np.isnan(loss[[0, 1, 2, 4]]).all()
        assert np.isnan(do[[0, 1, 2, 4]]).all()
        assert loss[3] == np.inf
        np.testing.assert_array_equal(do[3], [1, -1] + [0] * (K - 2))
        assert loss[5] == clean_loss[5]
        np.testing.assert_array_equal(do[5], clean_do[5])
    o = np.array([[-np.inf, 0, 0], [-np.inf] * 3], dtype)
    loss, do = fastgate.softmax_cross_entropy(o, [1, 1], reduction="none")
    np.testing.assert_array_equal(do, [[0, -0.5, 0.5], [np.nan] * 3])
    np.testing.assert_array_equal(loss, np.array([np.log(2), np.nan], dtype))


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_gives_the_same_bits_in_any_batch(dtype, K):
    rng = np.random.default_rng(7)
    o, y = scores(rng, (11, K), dtype), rng.integers(0, K, 11)
    loss, do = fastgate.softmax_cross_entropy(o, y, reduction="none")
    for row in range(11):
        alone, do_alone = fastgate.softmax_cross_entropy(o[row], y[row], reduction="none")
        np.testing.assert_array_equal(alone, loss[row])
        np.testing.assert_array_equal(do_alone, do[row])
    total, _ = fastgate.softmax_cross_entropy(o, y)
    again, _ = fastgate.softmax_cross_entropy(o.reshape(1, 11, 1, K), y.reshape(1, 11, 1))
    assert total == again


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_in_any_layout(dtype, layout):
    rng = np.random.default_rng(8)
    for shape in [(), (5,), (3, 4), (2, 3, 4)]:
        for K in (1, 9, 33):
            o, y = scores(rng, (*shape, K), dtype), rng.integers(0, K, shape)
            mask = rng.uniform(0.5, 2, shape).astype(dtype)
            expected = fastgate.softmax_cross_entropy(o, y, mask, reduction="none")
            elsewhere = lay_out(layout, o)
            before = elsewhere.copy()
            found = fastgate.softmax_cross_entropy(elsewhere, y, lay_out(layout, mask) if shape else mask, reduction="none")
            np.testing.assert_array_equal(elsewhere, before)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)
                assert a.dtype == dtype
                assert a.dtype.isnative


def test_labels_with_any_strides():
    rng = np.random.default_rng(13)
    o, y = scores(rng, (4, 5, 9), F4), rng.integers(0, 9, (8, 10))
    expected = fastgate.softmax_cross_entropy(o, y[::2, ::-2].copy(), reduction="none")
    for a, b in zip(fastgate.softmax_cross_entropy(o, y[::2, ::-2], reduction="none"), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_broadcast_scores():
    rng = np.random.default_rng(9)
    row, y = scores(rng, 9, F8), rng.integers(0, 9, (4, 5))
    expected = fastgate.softmax_cross_entropy(np.tile(row, (4, 5, 1)), y)
    found = fastgate.softmax_cross_entropy(np.broadcast_to(row, (4, 5, 9)), y)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_gradient_takes_the_memory_order_of_the_scores():
    o = scores(np.random.default_rng(10), (7, 5, 12), F4).swapaxes(0, 1)
    _, do = fastgate.softmax_cross_entropy(o, np.zeros((5, 7), int))
    assert do.strides == o.strides
    assert do.base is None or not np.shares_memory(do, o)


@pytest.mark.parametrize("integers", ["int8", "uint8", "int16", "int32", "uint64"])
def test_labels_of_any_integer_type(integers):
    rng = np.random.default_rng(11)
    o, y = scores(rng, (6, 9), F8), rng.integers(0, 9, 6)
    assert fastgate.softmax_cross_entropy(o, y.astype(integers))[0] == fastgate.softmax_cross_entropy(o, y.tolist())[0]


# --- levels ------------------------------------------------------------------------------------------------------


def main():
    rng = np.random.default_rng(12)
    bits = hashlib.sha256()
    for dtype in DTYPES:
        for K in CLASSES:
            for scale in (0.1, 3, 100):
                o, y = scores(rng, (5, 3, K), dtype, scale), rng.integers(0, K, (5, 3))
                mask = rng.uniform(0, 2, (5, 3)).astype(dtype)
                for reduction in REDUCTIONS:
                    loss, do = fastgate.softmax_cross_entropy(o, y, mask, reduction=reduction)
                    bits.update(struct.pack("d", np.sum(loss)) + do.tobytes())
    print(bits.hexdigest())


def test_levels_with_fma_give_the_same_bits():
    from levels import FMA_LEVELS, output_at

    assert len({output_at(level, __file__) for level in FMA_LEVELS}) <= 1


if __name__ == "__main__":
    main()
