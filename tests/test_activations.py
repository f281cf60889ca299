"""sigmoid and tanh as the cells compute them, against formulas in long double: at most 2 units in the last place.

Run as a script, it prints what one instruction-set level measures.
"""

import hashlib
import json

import numpy as np
import pytest

from fastgate import _kernels

ACTIVATIONS = {"sigmoid": _kernels.sigmoid, "tanh": _kernels.tanh}
DTYPES = {"float32": np.float32, "float64": np.float64}
LONG = np.longdouble

long_double_is_wider = pytest.mark.skipif(np.finfo(LONG).nmant < 60, reason="long double is no wider than double here")


def exact_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, LONG(1)) / (1 + e)


def exact_tanh(x):
    m = np.expm1(-2 * np.abs(x))
    return np.copysign(-m / (m + 2), x)


EXACT = {"sigmoid": exact_sigmoid, "tanh": exact_tanh}


def in_ulp(result, exact):
    """Distance of `result` from `exact` in units in the last place of `exact`, subnormal ones included."""
    info = np.finfo(result.dtype)
    exponent = np.maximum(np.frexp(exact)[1] - 1, info.minexp)
    return np.ldexp(np.abs(result.astype(LONG) - exact), info.nmant - exponent)


def samples(dtype, count=2**20):
    """`count` bit patterns spread over all exponents and both signs, and as many numbers where the functions bend."""
    rng = np.random.default_rng(7)
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}")
    step = 2 ** (8 * bits.itemsize) // count
    spread = (np.arange(count, dtype=bits) * bits.type(step) + rng.integers(0, step, count, bits)).view(dtype)
    largest = 110.0 if dtype == np.float32 else 760.0
    bent = np.concatenate([rng.uniform(-largest, largest, count // 2), np.exp2(rng.uniform(-16, 7, count // 4)),
                           -np.exp2(rng.uniform(-16, 7, count // 4))])  # fmt: skip
    return spread[~np.isnan(spread)], bent.astype(dtype)


def measure(name, dtype, x):
    """The largest distance in ulp, and where."""
    with np.errstate(under="ignore", over="ignore"):
        distance = in_ulp(ACTIVATIONS[name](x), EXACT[name](x.astype(LONG)))
    worst = int(distance.argmax())
    return float(distance[worst]), float(x[worst])


@long_double_is_wider
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_within_two_ulp(name, dtype):
    for x in samples(dtype):
        distance, where = measure(name, dtype, x)
        print(f"{name} {np.dtype(dtype).name} {_kernels.ISA}: at most {distance:.3f} ulp, at {where!r}")
        assert distance <= 2


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_special_values(dtype):
    info = np.finfo(dtype)
    least = info.smallest_subnormal
    tiny = [least, 5 * least, info.tiny / 2, info.tiny, -info.tiny, -least]
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, info.max, -info.max, *tiny], dtype)
    sigmoid, tanh = _kernels.sigmoid(x), _kernels.tanh(x)
    np.testing.assert_array_equal(sigmoid, np.array([0.5, 0.5, 1, 0, np.nan, np.nan, 1, 0, *[0.5] * len(tiny)], dtype))
    np.testing.assert_array_equal(tanh, np.array([0.0, -0.0, 1, -1, np.nan, np.nan, 1, -1, *tiny], dtype))
    np.testing.assert_array_equal(np.signbit(tanh[:4]), [False, True, False, True])
    assert sigmoid.dtype == tanh.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_range_and_symmetry(name, dtype):
    """sigmoid in [0, 1], tanh in [-1, 1] and odd, both without a step down among neighbours of 0."""
    _, x = samples(dtype, 2**14)
    y = ACTIVATIONS[name](x)
    assert y.max() <= 1
    assert y.min() >= (0 if name == "sigmoid" else -1)
    if name == "tanh":
        np.testing.assert_array_equal(ACTIVATIONS[name](-x), -y)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 1000])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_same_bits_at_any_place_in_an_array(name, size):
    for dtype in DTYPES.values():
        x = np.random.default_rng(size).normal(0, 3, size + 1).astype(dtype)[1:]
        one_by_one = [ACTIVATIONS[name](x[i : i + 1])[0] for i in range(size)]
        np.testing.assert_array_equal(ACTIVATIONS[name](x), np.array(one_by_one, dtype))


def main():
    results = {}
    for name, function in ACTIVATIONS.items():
        for label, dtype in DTYPES.items():
            found = [(function(x).tobytes(), *measure(name, dtype, x)) for x in samples(dtype)]
            bits = hashlib.sha256(b"".join(f[0] for f in found))
            results[f"{name} {label}"] = max(f[1] for f in found), bits.hexdigest()
    print(json.dumps(results))


@long_double_is_wider
def test_every_level_within_two_ulp_and_those_with_fma_alike():
    from levels import FMA_LEVELS, LEVELS, output_at

    found = {level: json.loads(output_at(level, __file__)) for level in LEVELS}
    for level, results in found.items():
        print(level, {name: round(ulp, 3) for name, (ulp, _) in results.items()})
        assert all(ulp <= 2 for ulp, _ in results.values())
    for level in FMA_LEVELS[1:]:
        assert found[level] == found[FMA_LEVELS[0]]


if __name__ == "__main__":
    main()
