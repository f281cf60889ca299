"""Prepared cells: the bits of the functions, whatever comes in and wherever it is written; weights of their own; no crash."""

import copy
import itertools
import os
import pickle
import random
import sys
import threading
import weakref

import numpy as np
import pytest
from layouts import LAYOUTS, lay_out
from support import (
    CELLS,
    VARIANTS,
    assert_same,
    digest,
    each,
    prepare,
    random_call,
    reordered,
    run,
    upstream,
    variant_id,
    weights_of,
)
from support import WEIGHTS as ALL_WEIGHTS
from test_malformed import forward_case, judged

import fastgate
from fastgate import _kernels

variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
dtypes = each("dtype", [np.float32, np.float64])
# Rows below and above the sizes at which the driver changes its ways; widths round the lane counts and the panels.
ROWS = [1, 2, 3, 5, 8, 17, 33, 70]
WIDTHS = [(5, 1), (1, 7), (9, 8), (8, 9), (3, 15), (16, 16), (17, 33), (40, 64), (20, 130)]
BIASES = list(itertools.product((False, True), repeat=2))
WEIGHTS = ("Wx", "Wh", "b", "bh")  # of every cell
CASES = int(os.environ.get("FASTGATE_MALFORMED", "200"))


def drawn(cell, dtype=np.float32, N=3, T=4, D=5, H=7, step=True, **biases):
    return random_call(cell, np.random.default_rng([N, T, D, H]), N=N, T=T, D=D, H=H, dtype=dtype, step=step, **biases)


def stepped(cell, prepared, *arguments, **keywords):
    """What step returns, by name."""
    found = prepared.step(*arguments, **keywords)
    return dict(zip(("h_next", "c_next"), found, strict=True)) if cell.has_c else {"h_next": found}


def step_bits(cell, call, options):
    """What the function returns for a step, by name."""
    return run(cell, fastgate, call, step=True, training=False, **dict(options))


def lay_out_weights(call, layout):
    return call | {name: lay_out(layout, a) for name, a in weights_of(call).items()}


# --- the bits of the functions -----------------------------------------------------------------------------------


@variants
@dtypes
@each("N", ROWS)
def test_a_step_has_the_bits_of_the_function(cell, options, dtype, N):
    for (D, H), (b, bh) in zip(WIDTHS, itertools.cycle(BIASES)):
        call = drawn(cell, dtype, N=N, D=D, H=H, b=b, bh=bh)
        prepared, left = prepare(cell, call, **dict(options))
        before = digest(call)
        assert_same(stepped(cell, prepared, **left), step_bits(cell, call, options))
        assert digest(call) == before


@variants
@dtypes
@each(("N", "T"), [(1, 1), (1, 9), (2, 3), (5, 2), (8, 4), (17, 5), (33, 3), (70, 2), (2, 0), (0, 3), (0, 0)])
def test_a_sequence_has_the_bits_of_the_function(cell, options, dtype, N, T):
    """Forward, its options, and backward from its cache."""
    rng = np.random.default_rng([N, T])
    for (D, H), (b, bh) in zip(WIDTHS, itertools.cycle(BIASES)):
        call = drawn(cell, dtype, N=N, T=T, D=D, H=H, step=False, b=b, bh=bh)
        gradients = upstream(cell, rng, call)
        prepared, left = prepare(cell, call, **dict(options))
        for lengths, reverse in ((None, False), (rng.integers(0, T + 1, N), False), (rng.integers(0, T + 1, N), True)):
            expected = run(cell, fastgate, call, gradients, lengths=lengths, reverse=reverse, **dict(options))
            forward = prepared.forward(**left, lengths=lengths, reverse=reverse)
            backward = cell.function(fastgate, "backward")(cache=forward.cache, **gradients)
            found = {name: a for name, a in forward._asdict().items() if name != "cache"} | backward._asdict()
            assert_same(found, expected)
        last = prepared.forward(**left, lengths=lengths, reverse=reverse, training=False, return_sequences=False)
        assert last.h is None
        assert last.cache is None
        assert_same(last._asdict(), expected, last._fields[1:-1])


@cells
@pytest.mark.parametrize(("dtype", "H"), [(np.float32, 800), (np.float64, 520)], ids=repr)
def test_a_long_row_and_weights_too_large_to_be_kept_in_two_ways(cell, dtype, H):
    """Small weights serve single rows by rows and batches by panels; large ones by panels alone."""
    call = drawn(cell, dtype, N=1, T=4, D=9, H=H, step=False)
    prepared, left = prepare(cell, call)
    expected = run(cell, fastgate, call, training=False)
    assert_same(prepared.forward(**left, training=False)._asdict(), expected, list(expected))


@variants
@dtypes
@each(("N", "T", "D", "H"), [(1, 6, 5, 9), (3, 4, 17, 33), (40, 3, 8, 20)])
def test_step_by_step_equals_forward(cell, options, dtype, N, T, D, H):
    """With new arrays and in place, and with parts by forward."""
    call = drawn(cell, dtype, N=N, T=T, D=D, H=H, step=False)
    prepared, left = prepare(cell, call, **dict(options))
    whole = prepared.forward(**left)
    states = [left[name] for name in cell.states()]
    own = [a.copy() for a in states]
    for t in range(T):
        states = list(stepped(cell, prepared, left["x"][:, t], *states).values())
        prepared.step(left["x"][:, t], *own, out=tuple(own) if cell.has_c else own[0])
        np.testing.assert_array_equal(states[0], whole.h[:, t])
    for found in (states, own):
        assert_same(dict(zip(whole._fields[1:-1], found, strict=True)), whole._asdict(), whole._fields[1:-1])
    first = prepared.forward(left["x"][:, : T // 2], *(left[name] for name in cell.states()))
    second = prepared.forward(left["x"][:, T // 2 :], *first[1:-1], training=False)
    np.testing.assert_array_equal(np.concatenate([first.h, second.h], axis=1), whole.h)


@variants
@dtypes
@each("layout", LAYOUTS)
def test_weights_in_any_layout_and_gate_order(cell, options, dtype, layout):
    for N, D, H in ((1, 6, 9), (5, 17, 33)):
        call = drawn(cell, dtype, N=N, D=D, H=H)
        expected = step_bits(cell, call, options)
        prepared, left = prepare(cell, lay_out_weights(call, layout), **dict(options))
        assert_same(stepped(cell, prepared, **left), expected)
        prepared.update(**weights_of(lay_out_weights(call, layout)))
        assert_same(stepped(cell, prepared, **left), expected)
        for name in weights_of(call):
            own = getattr(prepared, name)
            assert_same({name: own}, {name: call[name]})
            assert own.flags.c_contiguous
            assert own.dtype is np.dtype(dtype)
        if cell.G > 1:
            order = cell.gates[::-1]
            call |= reordered(cell, call, order)
            prepared, left = prepare(cell, lay_out_weights(call, layout), gate_order=order, **dict(options))
            assert_same(stepped(cell, prepared, **left), expected)


@variants
@dtypes
@each("layout", LAYOUTS)
def test_arguments_in_any_layout(cell, options, dtype, layout):
    for N, D, H in ((1, 6, 9), (5, 17, 33), (40, 8, 5)):
        call = drawn(cell, dtype, N=N, D=D, H=H)
        expected = step_bits(cell, call, options)
        prepared, left = prepare(cell, call, **dict(options))
        for names in (*[(name,) for name in left], tuple(left)):
            moved = left | {name: lay_out(layout, left[name]) for name in names}
            before = digest(moved)
            assert_same(stepped(cell, prepared, **moved), expected)
            assert digest(moved) == before


@variants
@dtypes
def test_states_that_are_broadcast_or_none(cell, options, dtype):
    call = drawn(cell, dtype, N=6)
    for state in cell.states(step=True):
        for given in (None, call[state][0], np.broadcast_to(call[state][0], call[state].shape), call[state][:1].repeat(6, 0)):
            changed = call | {state: given}
            prepared, left = prepare(cell, changed, **dict(options))
            assert_same(stepped(cell, prepared, **left), step_bits(cell, changed, options))
    prepared, left = prepare(cell, call, **dict(options))
    nothing = call | dict.fromkeys(cell.states(step=True))
    assert_same(stepped(cell, prepared, left["x"]), step_bits(cell, nothing, options))
    sequence = prepared.forward(left["x"][:, None])
    np.testing.assert_array_equal(sequence.h_T, prepared.step(left["x"])[0] if cell.has_c else prepared.step(left["x"]))


class Subclass(np.ndarray):
    pass


@variants
def test_subclasses_and_lists(cell, options):
    """Arrays of a subclass, and lists, which NumPy makes float64."""
    call = drawn(cell, np.float64)
    expected = step_bits(cell, call, options)
    for convert in (lambda a: a.view(Subclass), np.ndarray.tolist):
        other = {name: convert(a) for name, a in call.items()}
        prepared, left = prepare(cell, other, **dict(options))
        found = stepped(cell, prepared, **left)
        assert_same(found, expected)
        assert all(type(a) is np.ndarray for a in found.values())


@variants
@dtypes
@each(("N", "D", "H"), [(0, 5, 7), (3, 0, 7), (3, 5, 0), (3, 0, 0), (0, 0, 0), (0, 0, 7)])
def test_axes_of_no_length(cell, options, dtype, N, D, H):
    call = drawn(cell, dtype, N=N, D=D, H=H)
    prepared, left = prepare(cell, call, **dict(options))
    found = stepped(cell, prepared, **left)
    assert_same(found, step_bits(cell, call, options))
    out = {name: np.full_like(a, np.nan) for name, a in found.items()}
    assert_same(stepped(cell, prepared, **left, out=out), found)
    for T in (0, 2):
        call = drawn(cell, dtype, N=N, T=T, D=D, H=H, step=False)
        prepared, left = prepare(cell, call, **dict(options))
        forward = prepared.forward(**left)
        assert_same(forward._asdict(), run(cell, fastgate, call, **dict(options)), forward._fields[:-1])


@variants
@each("byte", [0x00, 0xFF, 0x7F, 0x55])
def test_earlier_contents_of_memory(cell, options, byte):
    call = drawn(cell, N=3, D=9, H=33)
    expected = step_bits(cell, call, options)
    try:
        _kernels._prefill(byte)
        prepared, left = prepare(cell, call, **dict(options))
        assert_same(stepped(cell, prepared, **left), expected)
    finally:
        _kernels._prefill(0xFF)


@variants
@dtypes
def test_threads_of_a_call(cell, options, dtype):
    """A call that is shared out has the bits of one that is not."""
    call = drawn(cell, dtype, N=9, D=40, H=130)
    prepared, left = prepare(cell, call, **dict(options))
    expected = stepped(cell, prepared, **left)
    try:
        _kernels._share_everything(True)
        for threads in (2, 3, 8):
            _kernels.set_num_threads(threads)
            assert_same(stepped(cell, prepared, **left), expected)
            own = [left[name].copy() for name in cell.states(step=True)]
            prepared.step(left["x"], *own, out=tuple(own) if cell.has_c else own[0])
            assert_same(dict(zip(expected, own, strict=True)), expected)
    finally:
        _kernels._share_everything(False)
        fastgate.set_num_threads(1)


# --- weights of its own ------------------------------------------------------------------------------------------


@variants
@dtypes
def test_what_is_written_into_the_callers_weights_changes_nothing(cell, options, dtype):
    call = drawn(cell, dtype, step=False)
    gradients = upstream(cell, np.random.default_rng(0), call)
    expected = run(cell, fastgate, call, gradients, **dict(options))
    prepared, left = prepare(cell, call, **dict(options))
    cache = prepared.forward(**left).cache
    for a in weights_of(call).values():
        a[...] = np.nan
    for found in (cache, prepared.forward(**left).cache):
        backward = cell.function(fastgate, "backward")(cache=found, **gradients)
        assert_same(backward._asdict(), expected, backward._fields)


@cells
def test_its_weights_cannot_be_written_nor_reshaped(cell):
    call = drawn(cell)
    prepared, left = prepare(cell, call)
    expected = stepped(cell, prepared, **left)
    for name in WEIGHTS:
        own = getattr(prepared, name)
        with pytest.raises(ValueError, match="read-only"):
            own[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            own.flags.writeable = True
        own.shape = own.shape[::-1]
        assert getattr(prepared, name).shape == call[name].shape
        with pytest.raises(AttributeError):
            setattr(prepared, name, call[name])
    assert_same(stepped(cell, prepared, **left), expected)
    with pytest.raises(ValueError, match="read-only"):
        fastgate.clip_grad_value([prepared.Wx], 1.0)


@variants
@dtypes
def test_update(cell, options, dtype):
    call, other = drawn(cell, dtype, step=False), drawn(cell, dtype, step=False, N=4)
    prepared, left = prepare(cell, call, **dict(options))
    gradients = upstream(cell, np.random.default_rng(0), call)
    old = prepared.forward(**left)
    for biases in ((), ("b",), ("bh",), ("b", "bh")):
        given = weights_of({name: a for name, a in other.items() if name in biases or name not in ("b", "bh")})
        assert prepared.update(**given) is None
        replaced = left | given
        found = prepared.forward(**left)
        assert_same(found._asdict(), run(cell, fastgate, replaced, **dict(options)), found._fields[:-1])
        assert (prepared.b is None, prepared.bh is None) == ("b" not in biases, "bh" not in biases)
    expected = run(cell, fastgate, call, gradients, **dict(options))
    backward = cell.function(fastgate, "backward")(cache=old.cache, **gradients)
    assert_same(backward._asdict(), expected, backward._fields)


@cells
def test_an_update_that_is_refused_changes_nothing(cell):
    call = drawn(cell)
    prepared, left = prepare(cell, call)
    expected, before = stepped(cell, prepared, **left), [getattr(prepared, name).copy() for name in WEIGHTS]
    wider = drawn(cell, D=6, H=8)
    good = weights_of(drawn(cell, N=9))
    refused = [
        (ValueError, "Wx", {"Wx": wider["Wx"]}),
        (ValueError, "Wh", {"Wh": wider["Wh"]}),
        (ValueError, "b", {"b": wider["b"]}),
        (ValueError, "bh", {"bh": wider["bh"]}),
        (ValueError, "Wx", weights_of(wider)),
        (ValueError, "Wx", {"Wx": good["Wx"].T}),
        (TypeError, "Wx", {name: a.astype(np.float64) for name, a in good.items()}),
        (TypeError, "Wh", {"Wh": good["Wh"].astype(np.float64)}),
        (TypeError, "b", {"b": good["b"].astype(int)}),
        (TypeError, "Wx", {"Wx": None}),
        *[(TypeError, "Wh", {"Wh": None})] * (cell.name != "leaky"),
    ]
    for error, name, bad in refused:
        with pytest.raises(error, match=f"^{name}: "):
            prepared.update(**good | bad)
    for name, a in zip(WEIGHTS, before, strict=True):
        np.testing.assert_array_equal(getattr(prepared, name), a)
    assert_same(stepped(cell, prepared, **left), expected)


@cells
def test_a_transposed_weight_is_named(cell):
    call = drawn(cell)
    for names in (["Wx"], ["Wx", "Wh"]):
        with pytest.raises(ValueError, match=r"^Wx: expected .*; pass Wx\.T\?$"):
            prepare(cell, call | {name: call[name].T for name in names})


@variants
@dtypes
def test_what_it_tells_of_itself(cell, options, dtype):
    call = drawn(cell, dtype)
    prepared, _ = prepare(cell, call, **dict(options))
    assert (prepared.input_size, prepared.hidden_size, prepared.dtype) == (5, 7, np.dtype(dtype))
    assert prepared.nbytes >= 2 * (call["Wx"].nbytes + call["Wh"].nbytes)
    words = [cell.prepared, "D=5", "H=7", np.dtype(dtype).name, *(f"{k}={v!r}" for k, v in options)]
    words += ["peephole"] * cell.peephole + ["P=4"] * cell.projection + ["alpha"] * cell.alpha
    assert all(word in repr(prepared) for word in words)


# --- out= --------------------------------------------------------------------------------------------------------


def forms_of_out(cell, arrays):
    """Every way to name these outputs, a dict by name: (what to pass, the names that are filled)."""
    names = list(arrays)
    yield arrays, names
    yield arrays["h_next"], ["h_next"]
    for name in names:
        yield {name: arrays[name]}, [name]
        yield arrays | {name: None}, [other for other in names if other != name]
    yield {}, []
    if cell.has_c:
        h, c = arrays.values()
        yield from (((h, c), names), ((h, None), ["h_next"]), ((None, c), ["c_next"]), ((None, None), []))


@variants
@dtypes
@each("layout", [layout for layout in LAYOUTS if layout not in ("bytes_swapped", "read_only")])
def test_out_in_every_form(cell, options, dtype, layout):
    for N, D, H in ((1, 5, 7), (4, 9, 16)):
        call = drawn(cell, dtype, N=N, D=D, H=H)
        prepared, left = prepare(cell, call, **dict(options))
        expected = step_bits(cell, call, options)
        count = len(list(forms_of_out(cell, expected)))
        for k in range(count):
            arrays = {name: lay_out(layout, np.full_like(a, np.nan)) for name, a in expected.items()}
            out, filled = list(forms_of_out(cell, arrays))[k]
            found = stepped(cell, prepared, **left, out=out)
            assert_same(found, expected)
            for name, a in arrays.items():
                assert (found[name] is a) is (name in filled)
                assert np.isnan(a).all() or name in filled


@variants
@dtypes
@each("N", [1, 3, 33, 70])
def test_outputs_that_are_inputs(cell, options, dtype, N):
    """States in place and crossed, x itself, the views of one buffer: as if the inputs had been copied first."""
    H = 9
    D = cell.P(H)  # the width of h
    call = drawn(cell, dtype, N=N, D=D, H=H)
    prepared, left = prepare(cell, call, **dict(options))
    expected = step_bits(cell, call, options)
    states = cell.states(step=True)
    for names in itertools.permutations(("x", *states), len(states)):
        own = {name: a.copy() for name, a in left.items()}
        out = tuple(own[name] for name in names)
        if any(a.shape != e.shape for a, e in zip(out, expected.values(), strict=True)):
            continue
        assert_same(stepped(cell, prepared, **own, out=out if cell.has_c else out[0]), expected)
    # Rows that overlap their own input, one row off.
    for name in ("x", *states):
        buffer = np.full((N + 1, left[name].shape[1]), np.nan, dtype)
        own = left | {name: buffer[:N]}
        buffer[:N] = left[name]
        field = "h_next" if buffer.shape[1] == D else "c_next"
        assert_same(stepped(cell, prepared, **own, out={field: buffer[1:]}), expected)
    if cell.has_c:
        buffer = np.concatenate([left["h_prev"], left["c_prev"]], axis=1)
        halves = buffer[:, :D], buffer[:, D:]
        assert_same(stepped(cell, prepared, left["x"], *halves, out=halves), expected)


@variants
def test_outputs_of_a_sequence(cell, options):
    call = drawn(cell, step=False)
    prepared, left = prepare(cell, call, **dict(options))
    expected = run(cell, fastgate, call, **dict(options))
    out = {name: np.full_like(a, np.nan) for name, a in expected.items()}
    found = prepared.forward(**left, out=out)
    assert_same(found._asdict(), expected, expected)
    assert all(getattr(found, name) is out[name] for name in out)
    own = {name: a.copy() for name, a in left.items()}
    out = dict(zip(("h_T", "c_T"), (own[name] for name in cell.states()), strict=False))
    assert_same(prepared.forward(**own, out=out)._asdict(), expected, expected)


@cells
def test_out_that_is_refused(cell):
    """By name, before anything is written."""
    call = drawn(cell)
    prepared, left = prepare(cell, call)
    h = np.full((3, 7), 0.5, np.float32)
    frozen, folded = h.copy(), np.lib.stride_tricks.as_strided(h.copy(), (3, 7), (0, 4))
    frozen.flags.writeable = False
    bad = [h[:2], h.T, h[None], h.astype(np.float64), h.astype(">f4"), h.astype(int), frozen, folded, np.ma.masked_array(h)]
    refused = [*bad, *({"h_next": a} for a in bad), {"h": h}, {3: h}, [h], "h", 1.0, prepared.Wh[:3, :7], h.tolist()]
    if cell.has_c:
        c = h.copy()
        refused += [(a, c) for a in bad] + [(c, a) for a in bad]
        refused += [(h, h), (h, h[:]), {"h_next": h, "c_next": h}, (h, c, c), (h,), (), [h, c]]
        flat = np.zeros(3 * 7 + 1, np.float32)
        refused += [(flat[:-1].reshape(3, 7), flat[1:].reshape(3, 7))]
    else:
        refused += [(h,), (h, h), {"c_next": h}]
    before = digest(refused, left)
    for out in refused:
        with pytest.raises((ValueError, TypeError), match=r"^out\b"):
            prepared.step(**left, out=out)
    assert digest(refused, left) == before


# --- errors ------------------------------------------------------------------------------------------------------


def by_a_prepared_cell(cell, step, given):
    """Builds the cell, then calls it: a function of the arguments of the function."""
    own = {*ALL_WEIGHTS, "gate_order", "delays", "period", *dict(itertools.chain(*cell.options))}
    given.pop("training", None) if step else None

    def call(**arguments):
        built = {name: arguments.pop(name) for name in own & arguments.keys()}
        prepared = getattr(fastgate, cell.prepared)(**built)
        (prepared.step if step else prepared.forward)(**arguments)

    return call


@variants
@each("step", [True, False])
def test_malformed_calls_are_refused(cell, options, step):
    """Those of the functions: the constructor refuses a bad weight, step and forward the rest."""
    for seed in range(CASES):
        rng = random.Random(f"{variant_id((cell, options))} {step} {seed}")
        call, names, huge = forward_case(rng, cell, options, step, False)
        if step and names == ["training"]:
            continue
        # Where two disagree, the weights are right.
        names = [*names, "Wx", "Wh", "Wr"] if set(names) & {*ALL_WEIGHTS} else [*names, "x"]
        wrong = judged(by_a_prepared_cell(cell, step, call), call, names, huge)
        assert not wrong, f"seed {seed}: {wrong}"


def test_the_odd_dtype_among_the_weights_is_named():
    Wx, Wh, b = np.ones((2, 9)), np.ones((3, 9)), np.ones(9)
    with pytest.raises(TypeError, match=r"^Wx: expected float64 as all others, got float32; pass Wx.astype\(np.float64\)$"):
        fastgate.GRUCell(Wx.astype(np.float32), Wh, b)
    cell = fastgate.GRUCell(Wx, Wh, b)
    with pytest.raises(TypeError, match=r"^Wh: expected float64 as Wx, got float32"):
        cell.update(Wx, Wh.astype(np.float32), b.astype(np.float32))


@cells
def test_errors_name_the_argument_of_the_call(cell):
    """Not a weight, which was right when the cell was made."""
    call = drawn(cell, N=3, D=5, H=7)
    prepared, left = prepare(cell, call)
    x, h_prev = left["x"], left["h_prev"]
    for bad, error in (
        (x[:, :4], ValueError), (x[:, :, None], ValueError), (x[0], ValueError), (x[0, 0], ValueError), (x.T, ValueError),
        (np.array(1, np.float32), ValueError), (x.astype(np.float64), TypeError), (x.astype(object), TypeError),
        (x.astype(np.float16), TypeError), (x.astype(int), TypeError), (None, TypeError), ("x", TypeError),
        (np.ma.masked_array(x), TypeError), (x.tolist(), TypeError), (x.astype(">f8"), TypeError),
        ([[1.0], [2.0, 3.0]], ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match=r"^x: expected "):
            prepared.step(bad, h_prev)
        with pytest.raises(error, match=r"^x: expected "):
            prepared.forward(bad if not isinstance(bad, np.ndarray) else bad[..., None, :] if bad.ndim == 2 else bad)
    for state in cell.states(step=True):
        for bad, error in (
            (h_prev[:2], ValueError), (h_prev[:, :6], ValueError), (h_prev[None], ValueError), (h_prev.T, ValueError),
            (np.array(1, np.float32), ValueError), (h_prev.astype(np.float64), TypeError), (h_prev.astype(object), TypeError),
            (np.ma.masked_array(h_prev), TypeError), ("h", TypeError),
        ):  # fmt: skip
            with pytest.raises(error, match=f"^{state}: expected "):
                prepared.step(**left | {state: bad})
    with pytest.raises(TypeError, match="positional arguments"):  # what is too much by position is not out=, to be written into
        prepared.step(x, *[h_prev] * (2 + cell.has_c))
    with pytest.raises(TypeError, match="argument"):
        prepared.step()
    with pytest.raises(TypeError, match="nonsense"):
        prepared.step(x, nonsense=1)


@cells
@pytest.mark.parametrize("D", [0, 1])
@pytest.mark.parametrize("H", [0, 1, 15])
def test_sizes_that_no_memory_holds(cell, D, H):
    """x of stride 0 or of no columns: the product of its sizes must not wrap round, nor 2^60 rows be walked through."""
    W = np.ones((D, cell.G * H), np.float32), np.ones((H, cell.G * H), np.float32)
    prepared = getattr(fastgate, cell.prepared)(*W)
    step, forward = (cell.function(fastgate, what) for what in ("step_forward", "forward"))
    arguments = (*[None] * len(cell.states()), *W)
    calls = (
        prepared.step,
        lambda x: prepared.forward(x[None]),
        lambda x: prepared.forward(x[:, None]),
        lambda x: step(x, *arguments, training=False),
        lambda x: forward(x[None], *arguments, training=False),
    )
    for N in (2**45, 2**60, 2**64 // 152 + 1, 2**64 // 16 + 1):
        x = np.broadcast_to(np.ones((), np.float32), (N, 1))[:, :D]
        for refused in calls:
            with pytest.raises((MemoryError, OverflowError), match=r"^x"):
                refused(x)


@cells
def test_weights_that_no_memory_holds(cell):
    one, large, name = np.ones((), np.float32), 2**24, cell.prepared
    Wx, Wh = np.broadcast_to(one, (3, cell.G * large)), np.broadcast_to(one, (large, cell.G * large))
    with pytest.raises((MemoryError, OverflowError), match=r"^Wx"):
        getattr(fastgate, name)(Wx, Wh)
    W, nothing = np.empty((2**60, 0), np.float32), np.empty((0, 0), np.float32)
    prepared = getattr(fastgate, name)(W, nothing)
    assert prepared.input_size == 2**60
    assert stepped(cell, prepared, np.empty((0, 2**60), np.float32))["h_next"].shape == (0, 0)


class Reshaping:
    """Converted to an array, it changes another one on the way."""

    def __init__(self, value, change):
        self.value, self.change = value, change

    def __array__(self, dtype=None, copy=None):
        self.change()
        return self.value


@cells
def test_arguments_that_reshape_the_others(cell):
    """While the cell is made, updated and stepped: refused or as before, and never a read beside an array."""
    call = drawn(cell, N=3, D=5, H=7)
    Wx, Wh = call["Wx"], call["Wh"]

    def change():
        Wx.shape = Wx.shape[::-1]

    prepared, left = prepare(cell, call)
    expected = stepped(cell, prepared, **left)
    for make in (type(prepared), prepared.update):
        assert Wx.shape == call["Wx"].shape
        make(Wx, Reshaping(Wh, change), call["b"], **{name: call[name] for name in ("bh", *cell.norm)})
        Wx.shape = Wx.shape[::-1]
    assert_same(stepped(cell, prepared, **left), expected)

    x, h = left["x"], left["h_prev"]

    def change_x():
        x.shape = x.shape[::-1]

    with pytest.raises(ValueError, match=r"^x: "):
        prepared.step(x, Reshaping(h, change_x))
    change_x()
    # A step while x is converted may come before an update that it brings about.
    other = weights_of(drawn(cell, N=9, D=5, H=7))
    found = stepped(cell, prepared, **left | {"x": Reshaping(x, lambda: prepared.update(**other))})
    assert_same(found, expected)
    assert_same(stepped(cell, prepared, **left), step_bits(cell, left | other, ()))


# --- Python's ways -----------------------------------------------------------------------------------------------


@variants
@dtypes
def test_copies(cell, options, dtype):
    """pickle, copy, deepcopy: the same results, options and own attributes; an update of one is not one of the other."""
    call = drawn(cell, dtype, bh=False)
    keywords = dict(options) | ({"gate_order": cell.gates[::-1]} if cell.G > 1 else {})
    prepared, left = prepare(cell, call, **keywords)
    prepared.note = ["mine"]
    expected = stepped(cell, prepared, **left)
    copies = [pickle.loads(pickle.dumps(prepared, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    copies += [copy.copy(prepared), copy.deepcopy(prepared)]
    other = weights_of(drawn(cell, dtype, N=9))
    prepared.update(**other)
    for twin in copies:
        assert type(twin) is type(prepared)
        assert repr(twin) == repr(prepared)
        assert twin.note == ["mine"]
        assert not twin.Wx.flags.writeable
        assert twin.bh is None
        assert_same(stepped(cell, twin, **left), expected)
        twin.update(**other)
        assert_same(stepped(cell, twin, **left), stepped(cell, prepared, **left))


class Encoder(fastgate.GRUCell):
    """A subclass with a constructor and attributes of its own."""

    def __init__(self, size):
        rng = np.random.default_rng(size)
        super().__init__(*(rng.standard_normal((size, 3 * size)) for _ in range(2)))
        self.calls = 0

    def step(self, x, h_prev=None, out=None):
        self.calls += 1
        return super().step(x, h_prev, out=out)


def test_a_subclass():
    encoder = Encoder(4)
    expected = fastgate.GRUCell(encoder.Wx, encoder.Wh).step(np.ones((1, 4)))
    for twin in (encoder, pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        np.testing.assert_array_equal(twin.step(np.ones((1, 4))), expected)
        assert (type(twin), twin.calls) == (Encoder, 1) or twin is not encoder
    assert "Encoder" in repr(encoder)
    gone = weakref.ref(encoder)
    del encoder, twin
    assert gone() is None


@cells
def test_a_subclass_that_forgets_to_call_init(cell):
    base = getattr(fastgate, cell.prepared)

    class Forgetful(base):
        def __init__(self):
            pass

    call = drawn(cell)
    for empty in (Forgetful(), base.__new__(base)):
        for use in (
            lambda c: c.step(call["x"]),
            lambda c: c.step(None),
            lambda c: c.step(call["x"], out=call["h_prev"]),
            lambda c: c.forward(call["x"][:, None]),
            lambda c: c.update(**weights_of(call)),
            lambda c: c.Wx,
            lambda c: c.b,
            lambda c: c.hidden_size,
            lambda c: c.nbytes,
            repr,
            pickle.dumps,
            copy.copy,
        ):
            with pytest.raises(TypeError, match="__init__ was not called"):
                use(empty)
    with pytest.raises(TypeError):
        base()


@cells
def test_init_once_more(cell):
    """Other sizes and another dtype: a new cell in the old one's place."""
    prepared, _ = prepare(cell, drawn(cell))
    call = drawn(cell, np.float64, D=8, H=20)
    prepared.__init__(**weights_of(call))
    left = {name: a for name, a in call.items() if name not in ALL_WEIGHTS}
    assert_same(stepped(cell, prepared, **left), step_bits(cell, call, ()))


# --- many Python threads -----------------------------------------------------------------------------------------


@variants
def test_many_threads_on_one_cell(cell, options):
    """Eight step and run sequences while a ninth updates: every result is that of one of the weights, never of a mixture."""
    calls = [drawn(cell, N=2, D=33, H=40, step=False)]
    calls.append(calls[0] | weights_of(drawn(cell, N=3, D=33, H=40, step=False)))
    gradients = upstream(cell, np.random.default_rng(0), calls[0])
    prepared, left = prepare(cell, calls[0], **dict(options))
    expected = [run(cell, fastgate, call, gradients, **dict(options)) for call in calls]
    states = [left[name] for name in cell.states()]
    firsts = [e["h"][:, 0] for e in expected]
    wrong, done = [], threading.Event()

    def work():
        out = np.empty_like(firsts[0])
        try:
            for _ in range(200):
                found = prepared.step(left["x"][:, 0], *states, out={"h_next": out} if cell.has_c else out)
                h_next = found[0] if cell.has_c else found
                if not any(np.array_equal(h_next, first) for first in firsts):
                    wrong.append("step")
                result = prepared.forward(**left)
                backward = cell.function(fastgate, "backward")(cache=result.cache, **gradients)
                both = {"h": result.h} | backward._asdict()
                if not any(all(np.array_equal(a, e[name]) for name, a in both.items()) for e in expected):
                    wrong.append("forward and backward")
        except BaseException as error:
            wrong.append(error)

    def update():
        while not done.is_set():
            for call in calls:
                prepared.update(**weights_of(call))

    workers = [threading.Thread(target=work) for _ in range(8)]
    updater = threading.Thread(target=update)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in (*workers, updater):
            thread.start()
        for thread in workers:
            thread.join()
    finally:
        done.set()
        sys.setswitchinterval(interval)
    updater.join()
    assert not wrong
