"""The kernels against the reference: every cell, option and dtype, over sizes, lengths, layouts, outputs.

A case is drawn from DIMENSIONS. The values of a dimension come in shuffled decks, so that every cell meets each of them equally
often, each time beside others. FASTGATE_CASES sets the number of sequence cases per cell, option and dtype; there are a
third as many steps. The exact result is the reference's in float64, on plain arrays of the same values.
"""

import copy
import itertools
import os
import pickle
import random
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
from layouts import LAYOUTS, far_apart, lay_out
from support import (
    CELLS,
    PROJECTED,
    VARIANTS,
    digest,
    each,
    is_steady,
    modules,
    naming,
    permuted,
    random_call,
    reordered,
    run,
    upstream,
    values,
    variant_id,
)

import fastgate
from fastgate import reference

CASES = int(os.environ.get("FASTGATE_CASES", "96"))
DTYPES = (np.float32, np.float64)
BOUND = 64  # units of eps, relative to the largest exact value: 1.4e-14 in float64


@dataclass(frozen=True)
class Case:
    cell: object
    options: tuple
    dtype: type
    step: bool = False
    N: int = 3
    T: int = 4
    D: int = 5
    H: int = 9
    lengths: str = "none"
    reverse: bool = False
    gate_order: str = "own"
    biases: str = "b"
    x: str = "plain"
    Wx: str = "plain"
    Wh: str = "plain"
    states: str = "plain"
    upstream: str = "plain"
    need: str = "all"
    out: str = "none"
    keep: str = "all"
    again: bool = False  # backward once more

    def __str__(self):
        head = f"{variant_id((self.cell, self.options))}-{self.dtype.__name__}{'-step' * self.step}"
        sizes = f"N{self.N}-D{self.D}-H{self.H}" if self.step else f"N{self.N}-T{self.T}-D{self.D}-H{self.H}"
        rest = [f"{f.name}={getattr(self, f.name)}" for f in fields(self)[8:] if getattr(self, f.name) != f.default]
        return "-".join([head, sizes, *rest])


SIZES = (1, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130, 140)
INPUTS = tuple(LAYOUTS)
OUTPUTS = tuple(name for name in LAYOUTS if name not in ("bytes_swapped", "read_only"))
DIMENSIONS = {
    "N": (1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 33, 65, 70),
    "T": (1, 2, 3, 5, 40),
    "D": SIZES,
    "H": SIZES,
    "lengths": ("none", "none", "ragged", "ragged", "ragged", "all_zero", "all_T"),
    "reverse": (False, True),
    "gate_order": ("own", "other"),
    "biases": ("b", "b", "b bh", "b bh", "bh", ""),
    "x": (*INPUTS, "same_rows", "same_steps"),
    "Wx": INPUTS,
    "Wh": INPUTS,
    "states": (*INPUTS, "one_row", "same_rows", "none"),
    "upstream": (*INPUTS, "none", "no dh", "no dh_T", "no dc_T", "no dh_T dc_T"),
    "need": ("all", "all", "some", "some", "nothing"),
    "out": ("none", "none", "first", "overlap", *OUTPUTS),
    "keep": ("all", "all", "all", "all", "all", "final", "no_cache", "final no_cache"),
    "again": (False, False, True),
}


def draw(cell, options, dtype, step, count):
    """`count` cases, the same in every run."""
    rng = random.Random(f"{cell} {options} {dtype.__name__} {step}")
    decks = {}
    for name, choices in DIMENSIONS.items():
        decks[name] = [value for _ in range(count // len(choices) + 1) for value in rng.sample(choices, len(choices))]
    for i in range(count):
        drawn = {name: deck[i] for name, deck in decks.items()}
        if drawn["D"] == drawn["H"]:
            drawn["D"] += 1
        if step:
            drawn |= {"T": 1, "lengths": "none", "reverse": False, "keep": drawn["keep"].replace("final", "").strip() or "all"}
        yield Case(cell, options, dtype, step, **drawn)


CORNERS = {
    # more rows than are collected before the weight gradients are formed, at once and step by step
    "few_rows_many_steps": {"N": 3, "T": 230, "H": 7},
    "many_rows": {"N": 70, "T": 12},
    "ragged_many_steps": {"N": 5, "T": 300, "lengths": "ragged"},
    "ragged_many_rows": {"N": 70, "T": 21, "lengths": "ragged", "reverse": True},
    "more_rows_than_collected": {"N": 700, "T": 3, "lengths": "ragged"},
    "exactly_collected": {"N": 640, "T": 2},
    "one_step_of_many_rows": {"N": 641, "T": 1},
    "step_of_many_rows": {"N": 641, "step": True},
    # one weight used as it lies, the other packed
    "many_rows_Wx_across": {"N": 200, "T": 2, "Wx": "columns_first"},
    "many_rows_Wh_across": {"N": 200, "T": 2, "Wh": "columns_first"},
    "step_of_many_rows_Wx_across": {"N": 200, "step": True, "Wx": "columns_first"},
    # blocks of K, whole and cut
    "K_128": {"N": 2, "T": 3, "D": 128, "H": 256},
    "K_129": {"N": 3, "T": 2, "D": 129, "H": 257},
    "K_127": {"N": 1, "T": 3, "D": 127, "H": 255},
    "K_step": {"N": 2, "step": True, "D": 300, "H": 129},
    "large_weights": {"N": 17, "T": 7, "D": 150, "H": 420, "biases": "b bh"},
    "wide_input": {"N": 17, "T": 7, "D": 2100, "H": 9},
    # nothing at all
    "T0": {"T": 0, "biases": "b bh"},
    "N0": {"N": 0, "biases": "b bh"},
    "N0_T0": {"N": 0, "T": 0},
    "N0_ragged": {"N": 0, "lengths": "ragged"},
    "T0_ragged": {"T": 0, "lengths": "ragged"},
    "T0_one_row": {"T": 0, "states": "one_row"},
    "N0_one_row": {"N": 0, "states": "one_row"},
    "N0_step": {"N": 0, "step": True},
    "D0": {"D": 0},
    "D0_step": {"D": 0, "step": True},
    "all_zero": {"lengths": "all_zero", "biases": "b bh"},
    "one_of_each": {"N": 1, "T": 1, "D": 1, "H": 2},
    "scalar": {"N": 1, "T": 1, "D": 1, "H": 1},
}


# ---- One case ----


def some_lengths(kind, N, T, rng):
    """Integers of some kind, in a sequence of some kind."""
    lengths = {
        "none": lambda: None,
        "all_T": lambda: np.full(N, T),
        "all_zero": lambda: np.zeros(N, int),
        "ragged": lambda: rng.integers(0, T + 1, N),
    }[kind]()
    if lengths is None:
        return None
    forms = [
        lambda: lengths.tolist(),
        lambda: lengths.astype(np.int64),
        lambda: lengths.astype(np.uint16)[::-1].copy()[::-1],
        lambda: lay_out("bytes_swapped", lengths.astype(np.int32)),
    ]
    return forms[rng.integers(len(forms))]()


def arrays_of(case):
    """(arguments as plain arrays, keyword arguments, upstream gradients, a generator of random numbers)."""
    cell = case.cell
    for attempt in itertools.count():
        rng = np.random.default_rng([attempt, *map(ord, str(case))])
        call = random_call(
            cell, rng, N=case.N, T=case.T, D=case.D, H=case.H, dtype=case.dtype, step=case.step,
            b="b" in case.biases.split(), bh="bh" in case.biases.split(),
        )  # fmt: skip
        # As wide as uniform between ±1 / sqrt(H): gradients neither grow nor vanish.
        for weight in ("Wx", "Wh", "peephole")[: 2 + case.cell.peephole]:
            call[weight] *= 0.6
        if case.x == "same_rows":
            call["x"][...] = call["x"][:1]
        if case.x == "same_steps" and not case.step:
            call["x"][...] = call["x"][:, :1]
        keywords = dict(case.options)
        for state in cell.states(case.step):
            if case.states == "one_row":
                call[state] = values(rng, call[state].shape[1], case.dtype)
            elif case.states == "same_rows":
                call[state][...] = call[state][:1]
            elif case.states == "none":
                del call[state]
                keywords[state] = None
        if case.gate_order == "other" and cell.G > 1:
            keywords["gate_order"] = "".join(rng.permutation(list(cell.gates)))
        if not case.step:
            keywords |= {"lengths": some_lengths(case.lengths, case.N, case.T, rng), "reverse": case.reverse}
        if is_steady(cell, call, case.step, **keywords):
            return call, keywords, upstream(cell, rng, call, case.step), rng


def placed(case, call):
    """The arguments as the case lays them out."""

    def in_layout(name, a):
        kind = case.states if name in case.cell.states(case.step) else getattr(case, name, case.Wx)
        if kind == "same_rows" and len(a):
            return np.broadcast_to(a[:1], a.shape)
        if kind == "same_steps" and a.ndim == 3 and a.shape[1]:
            return np.broadcast_to(a[:, :1], a.shape)
        return lay_out(kind if kind in LAYOUTS else "plain", a)

    return {name: in_layout(name, a) for name, a in call.items()}


def shared(a, shape):
    """`a` moved into new memory, and an array of `shape` that overlaps it there."""
    size = int(np.prod(shape))
    room = np.full(max(a.size, size) + 3, np.nan, a.dtype.newbyteorder("="))
    moved = room[3 : 3 + a.size].reshape(a.shape)
    moved[...] = a
    return moved, room[:size].reshape(shape)


def largest(*arrays):
    return max((float(np.abs(a).max(initial=0)) for a in arrays if a is not None), default=0.0)


def assert_close(name, found, exact, case, scale=0.0):
    """Within the bound relative to the largest exact value. A few numbers may all happen to be differences of far larger
    ones: they are judged by `scale`, the largest number of the call."""
    assert found.shape == exact.shape, name
    assert found.dtype == case.dtype, name
    size, error = largest(exact), largest(found - exact)
    bound = BOUND * np.finfo(case.dtype).eps * (max(size, scale) if exact.size < 8 else size)
    assert error <= bound, f"{name}: {error} of {size}"


def assert_in_place(result, out):
    """The results are the arrays of `out`, and nothing was written between their elements."""
    for name, array in out.items():
        assert getattr(result, name) is array, name
        if array.base is not None and array.base.dtype == array.dtype:
            assert np.isnan(array.base).sum() == array.base.size - array.size, name


def out_arrays(case, shapes, first):
    """New arrays for results of these shapes, or for the first result alone."""
    names = [name for name in shapes if case.out != "first" or name == first]
    layout = case.out if case.out in LAYOUTS else "plain"
    return {name: lay_out(layout, np.full(shapes[name], np.nan, case.dtype)) for name in names}


def passed(case, out):
    """`out=`: one array, a dict or None."""
    return next(iter(out.values())) if out and case.out == "first" else out or None


def has_order(result, like):
    """Whether a result lies in memory like the argument it follows."""
    if like.flags.c_contiguous and like.flags.aligned and like.dtype.isnative:
        return result.flags.c_contiguous
    if like.ndim > 1 and like.swapaxes(0, 1).flags.c_contiguous and like.flags.aligned and like.dtype.isnative:
        return result.swapaxes(0, 1).flags.c_contiguous
    return True


def check(case):
    call, keywords, gradients, rng = arrays_of(case)
    exact = forward_of(case, reference)(**{n: a.astype(np.float64) for n, a in call.items()}, **keywords)
    call = placed(case, call)

    # forward
    results = {name: getattr(exact, name) for name in exact._fields[:-1]}
    if "final" in case.keep:
        results["h"] = None
        keywords["return_sequences"] = False
    if "no_cache" in case.keep:
        keywords["training"] = False
    shapes = {name: r.shape for name, r in results.items() if r is not None}
    out = {}
    if case.out == "overlap":
        first = next(iter(shapes))
        call["x"], out[first] = shared(call["x"], shapes[first])
        states = [call[name] for name in case.cell.states(case.step) if name in call]
        finals = [name for name in shapes if name.endswith(("_T", "c_next"))]
        out |= {
            name: state
            for name, state in zip(finals, reversed(states), strict=False)
            if state.shape == shapes[name] and is_plain(state)
        }
    elif case.out != "none":
        out = out_arrays(case, shapes, exact._fields[0])
    before = digest(call, keywords)
    found = forward_of(case, fastgate)(**call, **keywords, out=passed(case, out))
    if case.out != "overlap":
        assert digest(call, keywords) == before
        assert_in_place(found, out)
    for name, result in results.items():
        if result is None:
            assert getattr(found, name) is None
        else:
            assert_close(name, getattr(found, name), result, case, 1)
    if "h" in shapes and "h" not in out:
        assert has_order(found.h, call["x"])
    if "no_cache" in case.keep:
        assert found.cache is None
        return

    # backward
    absent = case.upstream.removeprefix("no ").split() if case.upstream.startswith("no ") else []
    if case.upstream == "none":
        absent = list(gradients)
    absent += [name.replace("dh", "dh_next").replace("dc_T", "dc_next") for name in absent]
    gradients = {name: None if name in absent else g for name, g in gradients.items()}
    exact_gradients = {name: None if g is None else g.astype(np.float64) for name, g in gradients.items()}
    exact = backward_of(case, reference)(cache=exact.cache, **exact_gradients)
    layout = case.upstream if case.upstream in LAYOUTS else "plain"
    gradients = {name: lay_out(layout, g) for name, g in gradients.items()}
    need = {"all": exact._fields, "nothing": (), "some": [n for n in exact._fields if rng.integers(2)]}[case.need]
    keywords = {} if case.need == "all" else {"need": need}
    shapes = {name: getattr(exact, name).shape for name in need}
    out = {}
    if case.out == "overlap":
        first = next(iter(gradients))
        if "dx" in need and gradients[first] is not None:
            gradients[first], out["dx"] = shared(gradients[first], shapes["dx"])
        pairs = {"dh0": "dh_T", "dc0": "dc_T", "dh_prev": "dc_next", "dc_prev": "dc_next"}
        taken = set()
        for name, other in pairs.items():
            a = gradients.get(other)
            if name in need and a is not None and a.shape == shapes[name] and is_plain(a) and other not in taken:
                out[name] = a
                taken.add(other)
        out |= {name: call[name[1:]] for name in ("dWx", "dWh") if name in need and is_plain(call[name[1:]])}
    elif case.out != "none":
        out = out_arrays(case, shapes, "dx")
    before = digest(call, gradients)
    cache = found.cache
    found = backward_of(case, fastgate)(cache=cache, **gradients, **keywords, out=passed(case, out))
    if case.out != "overlap":
        assert digest(call, gradients) == before
        assert_in_place(found, out)
    assert found._fields == exact._fields
    scale = largest(*exact, *exact_gradients.values())
    for name in exact._fields:
        if name in need:
            assert_close(name, getattr(found, name), getattr(exact, name), case, scale)
            if name not in out and name[1:] in ("Wx", "Wh", "x"[case.step :]):
                assert has_order(getattr(found, name), call[name[1:]]), name
        else:
            assert getattr(found, name) is None
    if case.again and case.out != "overlap":
        others = {name: None if g is None else -g for name, g in gradients.items()}
        backward_of(case, fastgate)(cache=cache, **others)
        again = backward_of(case, fastgate)(cache=cache, **gradients, **keywords)
        for name in need:
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def is_plain(a):
    return a.flags.c_contiguous and a.flags.writeable and a.flags.aligned and a.dtype.isnative


def forward_of(case, module):
    return case.cell.function(module, "step_forward" if case.step else "forward")


def backward_of(case, module):
    return case.cell.function(module, "step_backward" if case.step else "backward")


variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


@variants
@dtypes
@each(("step", "count"), [(False, CASES), (True, (CASES + 2) // 3)])
def test_drawn(cell, options, dtype, step, count):
    for case in draw(cell, options, dtype, step, count):
        with naming(case):
            check(case)


@variants
@dtypes
@each("corner", CORNERS)
def test_corner(cell, options, dtype, corner):
    check(Case(cell, options, dtype, **CORNERS[corner]))


@variants
@dtypes
def test_every_width(cell, options, dtype):
    """Every number of lanes in use, where weights are read as they lie and where they are packed."""
    for H in range(1, 42):
        for N, T in ((1, 1), (2, 2), (3, 2), (1, 3), (3, 3), (17, 3)):
            check(Case(cell, options, dtype, N=N, T=T, D=H * 7 % 40 + 1, H=H, biases="b bh"))


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@dtypes
def test_every_gate_order(cell, dtype):
    """Weights come and gradients return in the order given; not a bit differs."""
    for options, step in itertools.product(cell.options, (False, True)):
        case = Case(cell, options, dtype, step, biases="b bh", H=17)
        call, keywords, gradients, _ = arrays_of(case)
        own = forward_of(case, fastgate)(**call, **keywords)
        own_gradients = backward_of(case, fastgate)(cache=own.cache, **gradients)
        for order in map("".join, itertools.permutations(cell.gates) if cell.G > 1 else ()):
            weights = reordered(cell, call, order)
            found = forward_of(case, fastgate)(**call | weights, **keywords, gate_order=order)
            for name in own._fields[:-1]:
                np.testing.assert_array_equal(getattr(found, name), getattr(own, name), err_msg=order)
            found = backward_of(case, fastgate)(cache=found.cache, **gradients)
            for name, gradient in own_gradients._asdict().items():
                expected = permuted(gradient, cell.gates, order) if name[1:] in weights else gradient
                np.testing.assert_array_equal(getattr(found, name), expected, err_msg=f"{order} {name}")


@pytest.mark.parametrize("activation", ["identity", "relu"])
@dtypes
@each(("N", "T", "D", "H"), [(1, 3, 140, 131), (70, 3, 9, 17), (7, 1, 300, 5), (700, 2, 3, 33)])
def test_small_integers_are_exact(activation, dtype, N, T, D, H):
    """Products and sums of small integers: every order of summation gives the same, which is right to the last bit."""
    rng = np.random.default_rng([N, T, D, H])
    call = {"x": (N, T, D), "h0": (N, H), "Wx": (D, H), "Wh": (H, H), "b": (H,), "bh": (H,)}
    call = {name: rng.integers(-2, 3, shape).astype(dtype) for name, shape in call.items()}
    lengths = rng.integers(0, T + 1, N)
    dh, dh_T = rng.integers(-2, 3, (N, T, H)).astype(dtype), rng.integers(-2, 3, (N, H)).astype(dtype)
    results = []
    for module in (reference, fastgate):
        h, h_T, cache = module.rnn_forward(**call, activation=activation, lengths=lengths)
        results.append((h, h_T, *module.rnn_backward(dh, cache, dh_T)))
    for exact, found in zip(*results, strict=True):
        assert np.abs(exact).max() < 2**23
        np.testing.assert_array_equal(found, exact)


@variants
def test_a_cache_owns_its_states(cell, options):
    """Outputs, initial states, biases and lengths may be overwritten between forward and backward."""
    case = Case(cell, options, np.float32, lengths="ragged", biases="b bh", H=17)
    call, keywords, gradients, _ = arrays_of(case)
    keywords["lengths"] = np.array([4, 0, 3])
    expected = backward_of(case, fastgate)(cache=forward_of(case, fastgate)(**call, **keywords).cache, **gradients)
    *outputs, cache = forward_of(case, fastgate)(**call, **keywords)
    for a in (*outputs, *(call[name] for name in (*cell.states(), "b", "bh")), keywords["lengths"]):
        a[...] = 77
    for found, exact in zip(backward_of(case, fastgate)(cache=cache, **gradients), expected, strict=True):
        np.testing.assert_array_equal(found, exact)


@pytest.mark.skipif(sys.platform != "linux", reason="memory may not be reservable unfilled")
@variants
@dtypes
@each("step", [False, True])
def test_strides_beyond_32_bits(cell, options, dtype, step):
    case = Case(cell, options, dtype, step, N=2, T=2, H=3, biases="b bh")
    call, keywords, gradients, _ = arrays_of(case)
    expected = run(cell, fastgate, call, gradients, step, **keywords)
    call, gradients = ({name: far_apart(a) if a.ndim > 1 else a for name, a in arrays.items()} for arrays in (call, gradients))
    out = {name: far_apart(a * np.nan) for name, a in expected.items() if a.ndim > 1}
    dout = {name: out.pop(name) for name in list(out) if name.startswith("d")}
    found = forward_of(case, fastgate)(**call, **keywords, out=out)
    backward_of(case, fastgate)(cache=found.cache, **gradients, out=dout)
    for name, a in (out | dout).items():
        np.testing.assert_array_equal(a, expected[name], err_msg=name)


MEMORY = """
import resource, numpy, fastgate
from support import CELLS, random_call
def peak(T):
    for cell in CELLS:
        call = random_call(cell, numpy.random.default_rng(0), N=2, T=1, D=1, H=8, dtype=numpy.float32)
        call["x"] = numpy.broadcast_to(call["x"], (2, T, 1))
        cell.function(fastgate, "forward")(**call, lengths=[T, T - 9], training=False, return_sequences=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak(20)
print(peak(200_000) - before, 200_000 * 2 * 8 * 4 // 1024)
"""


def test_gradients_pickle_and_copy():
    for module, cell, step in itertools.product(modules(), (*CELLS, PROJECTED), (False, True)):
        call = random_call(cell, np.random.default_rng(0), step=step)
        forward, backward = (cell.function(module, f"{'step_' * step}{what}") for what in ("forward", "backward"))
        found = backward(
            cache=forward(**call).cache, **upstream(cell, np.random.default_rng(1), call, step), need=("dWh", "db")
        )
        for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found), pickle.loads(pickle.dumps(found, 0))):
            assert type(other) is type(found)
            assert other.dx is None
            np.testing.assert_array_equal(other.dWh, found.dWh)
            np.testing.assert_array_equal(other.db, found.db)


def test_without_training_memory_does_not_grow_with_time():
    """Two hundred thousand steps take less memory than one value of each."""
    pytest.importorskip("resource")
    paths = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.run([sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    grown, one_value = map(int, process.stdout.split())
    assert grown < one_value / 4
