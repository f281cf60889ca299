"""A result depends on the values alone: not on the batch a row sits in, padding, chunks, options that only choose what is
returned, layout, instruction-set level, threads, or earlier contents of memory."""

import hashlib
import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from layouts import LAYOUTS, lay_out
from levels import FMA_LEVELS, LEVELS, output_at
from support import (
    KINDS,
    SANITIZED,
    VARIANTS,
    WEIGHTS,
    assert_same,
    each,
    of_weights,
    permuted,
    prepare,
    random_call,
    reordered,
    run,
    upstream,
    variant_id,
    weights_of,
)

import fastgate
from fastgate import _call, _kernels

variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
dtypes = each("dtype", [np.float32, np.float64])
# N, T, D, H: below and above the sizes at which the driver changes its ways
SIZES = [(5, 7, 6, 9), (1, 3, 17, 40), (40, 5, 33, 70), (18, 9, 150, 20), (3, 2, 9, 33), (70, 3, 8, 16), (4, 1, 20, 130)]
sizes = each(("N", "T", "D", "H"), SIZES)
values_alone = pytest.mark.skipif(SANITIZED, reason="other tests reach the memory of these calls")


def drawn(cell, dtype, N, T, D, H, step=False):
    """(arguments, upstream gradients, a generator of random numbers)."""
    rng = np.random.default_rng([N, T, D, H, step])
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype, step=step)
    return call, upstream(cell, rng, call, step), rng


def of_rows(results, rows):
    """Results that belong to rows of the batch, for these rows."""
    return {name: a[rows] for name, a in results.items() if not of_weights(name)}


def taken(arrays, cell, rows):
    """Arguments or gradients for these rows of the batch."""
    return {name: a if name in WEIGHTS else a[rows] for name, a in arrays.items()}


# --- the ways of reading weights ---------------------------------------------------------------------------------


def at_address(a, offset):
    """A copy in C order whose data lie `offset` bytes after a cache line."""
    memory = np.empty(a.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    assert copy.ctypes.data % 64 == offset
    return copy


PLACES = {
    "whole lines": lambda a: at_address(a, 0),
    "across lines": lambda a: at_address(a, 16),
    "columns first": np.asfortranarray,
}
# Batches and steps below and above the numbers in csrc/forward.inc; H that fills column blocks, H whose last block is narrow,
# and neither.
WAYS = [(N, T, D, H) for N in (1, 2, 8, 24, 25, 33, 65) for T in (1, 2, 3, 6) for D, H in ((9, 64), (20, 33))]
WAYS += [(N, T, 12, 47) for N in (2, 7, 8) for T in (3, 6)]
# Wh beyond FAR_BYTES in float32 for 4, 3 and 1 gates, and beyond SMALL_BYTES for 4; more rows than a block of summation.
FAR = [(N, T, 3, 1100) for N, T in ((1, 1), (1, 3), (2, 2), (3, 6))] + [(1, 3, 3, 372)]


@pytest.mark.parametrize(("cell", "options"), KINDS, ids=map(variant_id, KINDS))
@dtypes
@each("threads", [1, 3])
def test_every_way_of_reading_the_weights(cell, options, dtype, threads):
    """As they lie, in strips or along rows; copied row by row; in panels, packed ahead or on the way; prepared."""
    _kernels._share_everything(threads > 1)
    _kernels.set_num_threads(threads)
    try:
        for N, T, D, H in WAYS + FAR * (dtype is np.float32 and threads == 1):
            call, _, _ = drawn(cell, dtype, N, T, D, H)
            prepared, left = prepare(cell, call, **dict(options))
            expected = prepared.forward(**left, training=False)._asdict()
            for x_place, h_place in itertools.product(PLACES.values(), repeat=2):
                placed = call | {"Wx": x_place(call["Wx"]), "Wh": h_place(call["Wh"])}
                if cell.projection:
                    placed["Wr"] = h_place(call["Wr"])
                found = run(cell, fastgate, placed, training=False, **dict(options))
                assert_same(found, expected, found)
    finally:
        _kernels._share_everything(False)
        _kernels.set_num_threads(1)


@pytest.mark.parametrize(("cell", "options"), KINDS, ids=map(variant_id, KINDS))
@dtypes
def test_the_sign_of_zero_in_every_way(cell, options, dtype):
    """Products that are all -0, beside biases of -0."""
    for N, T, D, H in WAYS:
        call, _, _ = drawn(cell, dtype, N, T, D, H)
        for name, a in call.items():
            if name != "alpha":
                a[...] = -np.abs(a) if name in ("Wx", "Wh") else -0.0 if name in ("b", "bh") else 0
        prepared, left = prepare(cell, call, **dict(options))
        expected = prepared.forward(**left, training=False)._asdict()
        for place in (np.ascontiguousarray, np.asfortranarray):
            placed = call | {"Wx": place(call["Wx"]), "Wh": place(call["Wh"])}
            found = run(cell, fastgate, placed, training=False, **dict(options))
            assert_same(found, expected, found)


# --- the batch ---------------------------------------------------------------------------------------------------


@values_alone
@variants
@dtypes
@sizes
def test_a_row_alone_equals_the_row_in_its_batch(cell, options, dtype, N, T, D, H):
    call, gradients, rng = drawn(cell, dtype, N, T, D, H)
    for lengths, reverse in ((None, False), (rng.integers(0, T + 1, N), True)):
        keywords = dict(options) | {"reverse": reverse}
        whole = run(cell, fastgate, call, gradients, lengths=lengths, **keywords)
        for rows in ([0], [N - 1], [N // 2], list(range(0, N, 3)), rng.permutation(N)):
            part = run(
                cell, fastgate, taken(call, cell, rows), taken(gradients, cell, rows),
                lengths=None if lengths is None else lengths[rows], **keywords,
            )  # fmt: skip
            assert_same(of_rows(part, slice(None)), of_rows(whole, rows))


@values_alone
@variants
@dtypes
def test_infinite_inputs_stay_in_their_sums(cell, options, dtype):
    """Where the slots of the last units stand side by side, too: zeros times infinity lie between them."""
    for N, H in itertools.product((3, 17), (2, 3, 7, 20, 24)):
        call, _, _ = drawn(cell, dtype, N, 3, 5, H)
        call["x"][0, 1, 2], call["x"][-1, 0, 0] = np.inf, -np.inf
        whole = run(cell, fastgate, call, training=False, **dict(options))
        for row in (0, N - 1):
            alone = run(cell, fastgate, taken(call, cell, [row]), training=False, **dict(options))
            assert_same(alone, of_rows(whole, [row]))


@values_alone
@variants
@dtypes
@sizes
def test_a_row_alone_equals_the_row_in_its_batch_in_a_step(cell, options, dtype, N, T, D, H):
    call, gradients, rng = drawn(cell, dtype, N, T, D, H, step=True)
    whole = run(cell, fastgate, call, gradients, step=True, **dict(options))
    for rows in ([0], [N - 1], list(range(0, N, 3)), rng.permutation(N)):
        part = run(cell, fastgate, taken(call, cell, rows), taken(gradients, cell, rows), step=True, **dict(options))
        assert_same(of_rows(part, slice(None)), of_rows(whole, rows))


# --- time --------------------------------------------------------------------------------------------------------


@variants
@dtypes
@sizes
def test_padding_changes_nothing(cell, options, dtype, N, T, D, H):
    """Further padding, even NaN, after the lengths, weight gradients included; and lengths of T are no lengths."""
    call, gradients, rng = drawn(cell, dtype, N, T, D, H)
    for lengths, reverse in itertools.product((np.full(N, T), rng.integers(0, T + 1, N), np.zeros(N, int)), (False, True)):
        keywords = dict(options) | {"reverse": reverse}
        expected = run(cell, fastgate, call, gradients, lengths=lengths, **keywords)
        if (lengths == T).all():
            assert_same(run(cell, fastgate, call, gradients, **keywords), expected)
        padded = [np.full((N, T + 3, a.shape[2]), np.nan, dtype) for a in (call["x"], gradients["dh"])]
        for n in range(N):
            for a, given in zip(padded, (call["x"], gradients["dh"]), strict=True):
                a[n, : lengths[n]] = given[n, : lengths[n]]
        found = run(cell, fastgate, call | {"x": padded[0]}, gradients | {"dh": padded[1]}, lengths=lengths, **keywords)
        for name in ("h", "dx"):
            assert not found[name][:, T:].any()
            found[name] = found[name][:, :T]
        assert_same(found, expected)


def in_chunks(cell, options, call, gradients, pieces, **keywords):
    """Forward over pieces of time, then backward from the last piece to the first, carrying states; joined."""
    states = {name: call[name] for name in cell.states()}
    final = ("h_T", "c_T")[: len(states)]
    h, dx, caches = np.empty_like(gradients["dh"]), np.empty_like(call["x"]), []
    for piece in pieces:
        found = cell.function(fastgate, "forward")(**call | states | {"x": call["x"][:, piece]}, **dict(options), **keywords)
        states = {name: getattr(found, end) for name, end in zip(states, final, strict=True)}
        h[:, piece] = found.h
        caches.append((piece, found.cache))
    dstates = {f"d{end}": gradients[f"d{end}"] for end in final}
    for piece, cache in reversed(caches):
        back = cell.function(fastgate, "backward")(gradients["dh"][:, piece], cache, **dstates)
        dstates = {name: getattr(back, f"d{state}") for name, state in zip(dstates, states, strict=True)}
        dx[:, piece] = back.dx
    ends = dict(zip(final, states.values(), strict=True))
    return {"h": h, "dx": dx} | ends | {f"d{state}": d for state, d in zip(states, dstates.values(), strict=True)}


def in_steps(cell, options, call, gradients):
    """The same by single steps."""
    weights = weights_of(call)
    states = [call[name] for name in cell.states()]
    h, dx, caches = np.empty_like(gradients["dh"]), np.empty_like(call["x"]), []
    for t in range(call["x"].shape[1]):
        *states, cache = cell.function(fastgate, "step_forward")(call["x"][:, t], *states, **weights, **dict(options))
        h[:, t] = states[0]
        caches.append(cache)
    dstates = [gradients[name] for name in ("dh_T", "dc_T")[: len(states)]]
    for t in reversed(range(call["x"].shape[1])):
        dstates[0] = dstates[0] + gradients["dh"][:, t]
        back = cell.function(fastgate, "step_backward")(*dstates, caches[t])
        dx[:, t], dstates = back.dx, list(back[1 : 1 + len(states)])
    ends = dict(zip(("h_T", "c_T"), states, strict=False))
    return {"h": h, "dx": dx} | ends | {f"d{name}": d for name, d in zip(cell.states(), dstates, strict=True)}


@values_alone
@variants
@dtypes
@sizes
def test_chunks_and_steps_equal_the_whole(cell, options, dtype, N, T, D, H):
    """Forward, and backward but for the weight gradients, whose sums the chunks would cut."""
    call, gradients, _ = drawn(cell, dtype, N, T, D, H)
    for reverse in (False, True):
        whole = run(cell, fastgate, call, gradients, reverse=reverse, **dict(options))
        for ends in (range(T + 1), (0, (T + 1) // 2, T), (0, 1, max(1, T - 1), T)):
            pieces = [slice(*piece) for piece in itertools.pairwise(ends)]
            found = in_chunks(cell, options, call, gradients, pieces[::-1] if reverse else pieces, reverse=reverse)
            assert_same(found, whole, found)
        if not reverse:
            found = in_steps(cell, options, call, gradients)
            assert_same(found, whole, found)


@values_alone
@variants
@dtypes
@sizes
def test_reverse_equals_turned_around(cell, options, dtype, N, T, D, H):
    call, gradients, rng = drawn(cell, dtype, N, T, D, H)
    lengths = rng.integers(0, T + 1, N)
    turned = np.array([[length - 1 - t if t < length else t for t in range(T)] for length in lengths]).reshape(N, T, 1)
    turn = {name: np.take_along_axis(a, turned, 1) for name, a in {"x": call["x"], "dh": gradients["dh"]}.items()}
    found = run(cell, fastgate, call, gradients, lengths=lengths, reverse=True, **dict(options))
    expected = run(cell, fastgate, call | {"x": turn["x"]}, gradients | {"dh": turn["dh"]}, lengths=lengths, **dict(options))
    for name in ("h", "dx"):
        expected[name] = np.take_along_axis(expected[name], turned, 1)
    assert_same(found, expected)


# --- options that only choose what is returned -------------------------------------------------------------------


@variants
@dtypes
@sizes
def test_training_and_return_sequences(cell, options, dtype, N, T, D, H):
    call, gradients, rng = drawn(cell, dtype, N, T, D, H)
    keywords = dict(options) | {"lengths": rng.integers(0, T + 1, N)}
    full = run(cell, fastgate, call, gradients, **keywords)
    for training, return_sequences in itertools.product((False, True), repeat=2):
        returned = {"training": training, "return_sequences": return_sequences}
        found = run(cell, fastgate, call, gradients if training else None, **returned, **keywords)
        absent = {name for name in full if (name == "h" and not return_sequences) or (name.startswith("d") and not training)}
        assert found.keys() == full.keys() - absent
        assert_same(found, full, found)
    call, _, _ = drawn(cell, dtype, N, T, D, H, step=True)
    assert_same(*(run(cell, fastgate, call, step=True, training=training, **dict(options)) for training in (False, True)))


@variants
@dtypes
def test_need_and_out(cell, options, dtype):
    call, gradients, _ = drawn(cell, dtype, 5, 7, 6, 9)
    forward, backward = cell.function(fastgate, "forward"), cell.function(fastgate, "backward")
    result = forward(**call, **dict(options))
    expected = backward(cache=result.cache, **gradients)._asdict()
    for name in expected:
        found = backward(cache=result.cache, **gradients, need=(name,))._asdict()
        assert [other for other, a in found.items() if a is not None] == [name]
        assert_same(found, expected, [name])
    for layout in ("plain", "columns_first", "wide_rows", "spread", "backwards", "misaligned"):

        def arrays(like, layout=layout):
            return {name: lay_out(layout, np.full(a.shape, np.nan, dtype)) for name, a in like.items()}

        outputs = {name: a for name, a in result._asdict().items() if name != "cache"}
        assert_same(forward(**call, **dict(options), out=arrays(outputs))._asdict(), outputs, outputs)
        assert_same(backward(cache=result.cache, **gradients, out=arrays(expected))._asdict(), expected)


# --- layout ------------------------------------------------------------------------------------------------------


@variants
@dtypes
@each("step", [False, True])
@each(("N", "T", "D", "H"), [(5, 3, 6, 9), (3, 2, 17, 16), (40, 3, 8, 33)])
def test_layouts_and_gate_order(cell, options, dtype, N, T, D, H, step):
    """Each argument alone in each layout, and all at once; strided, misaligned, swapped, broadcast, in another gate order."""
    call, gradients, _ = drawn(cell, dtype, N, T, D, H, step)
    expected = run(cell, fastgate, call, gradients, step, **dict(options))
    for layout in LAYOUTS:
        for name in call:
            found = run(cell, fastgate, call | {name: lay_out(layout, call[name])}, gradients, step, **dict(options))
            assert_same(found, expected)
        moved = [{name: lay_out(layout, a) for name, a in arrays.items()} for arrays in (call, gradients)]
        assert_same(run(cell, fastgate, *moved, step, **dict(options)), expected)
        if cell.G > 1:
            order = cell.gates[::-1]
            weights = reordered(cell, call, order)
            found = run(cell, fastgate, moved[0] | weights, gradients, step, gate_order=order, **dict(options))
            for name in (f"d{name}" for name in weights):
                found[name] = permuted(found[name], order, cell.gates)
            assert_same(found, expected)


@variants
@dtypes
@each("step", [False, True])
def test_broadcast_states(cell, options, dtype, step):
    call, gradients, _ = drawn(cell, dtype, 6, 4, 5, 9, step)
    names = cell.states(step)
    one = {name: call[name][0] for name in names}
    whole = {name: np.repeat(a[None], 6, axis=0) for name, a in one.items()}
    expected = run(cell, fastgate, call | whole, gradients, step, **dict(options))
    strided = {name: np.broadcast_to(a, (6, len(a))) for name, a in one.items()}
    assert_same(run(cell, fastgate, call | strided, gradients, step, **dict(options)), expected)
    for name in names:
        expected[f"d{name}"] = expected[f"d{name}"].sum(axis=0)
    assert_same(run(cell, fastgate, call | one, gradients, step, **dict(options)), expected)
    zeros = {name: np.zeros_like(a) for name, a in whole.items()}
    expected = run(cell, fastgate, call | zeros, gradients, step, **dict(options))
    assert_same(run(cell, fastgate, call | dict.fromkeys(names), gradients, step, **dict(options)), expected)


# --- earlier contents of memory ----------------------------------------------------------------------------------


class Filled:
    """NumPy, but that new arrays hold `byte` everywhere."""

    def __init__(self, byte):
        self.byte = byte

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, *arguments):
        return self.filled(np.empty(*arguments))

    def empty_like(self, *arguments):
        return self.filled(np.empty_like(*arguments))

    def filled(self, a):
        flat = a.ravel(order="K")
        assert a.size == 0 or np.shares_memory(a, flat)
        flat.view(np.uint8)[...] = self.byte
        return a


@pytest.fixture
def prefill(monkeypatch):
    def fill(byte):
        _kernels._prefill(byte)
        monkeypatch.setattr(_call, "np", Filled(byte))

    yield fill
    _kernels._prefill(0xFF)


@values_alone
@variants
@dtypes
@sizes
def test_earlier_contents_of_memory(cell, options, dtype, N, T, D, H, prefill):
    call, gradients, _ = drawn(cell, dtype, N, T, D, H)
    found = []
    for byte in (0x00, 0xFF, 0x7F, 0x55):
        prefill(byte)
        keywords = dict(options) | {"lengths": np.minimum(np.arange(N) % (T + 1), T)}
        found.append(run(cell, fastgate, call, gradients, **keywords))
        found[-1] |= {f"{name} alone": a for name, a in run(cell, fastgate, call, training=False, **keywords).items()}
    for other in found[1:]:
        assert_same(other, found[0])


# --- processes and threads ---------------------------------------------------------------------------------------


def fixed_results():
    """{name of a case: hash of all its results}."""
    hashes = {}
    for (cell, options), dtype, (N, T, D, H) in itertools.product(VARIANTS, (np.float32, np.float64), SIZES):
        for step in (False, True):
            call, gradients, rng = drawn(cell, dtype, N, T, D, H, step)
            keywords = dict(options) if step else dict(options) | {"lengths": rng.integers(0, T + 1, N)}
            found = run(cell, fastgate, call, gradients, step, **keywords)
            h = hashlib.sha256()
            for name, a in found.items():
                h.update(name.encode() + np.ascontiguousarray(a).tobytes())
            hashes[f"{variant_id((cell, options))} {dtype.__name__} {N, T, D, H} {'step' * step}"] = h.hexdigest()
    return hashes


def lines(hashes):
    return "".join(f"{name}: {h}\n" for name, h in hashes.items())


@values_alone
@pytest.mark.skipif("FASTGATE_ISA" in os.environ, reason="a level was asked for")
def test_levels_with_fma_agree_and_every_level_repeats():
    here = lines(fixed_results())
    there = {level: output_at(level, __file__) for level in LEVELS}
    assert there[fastgate.get_config()["isa"]] == here
    for level in FMA_LEVELS:
        assert there[level] == there[FMA_LEVELS[0]], level
    for level in LEVELS:
        if level not in FMA_LEVELS:
            assert output_at(level, __file__) == there[level]


@values_alone
def test_threads_at_once():
    """Many threads at once get what one gets."""
    expected = lines(fixed_results())
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: lines(fixed_results()), range(4)))


@values_alone
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_after_fork():
    expected = lines(fixed_results()).encode()
    readable, writeable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writeable, hashlib.sha256(lines(fixed_results()).encode()).digest())
        finally:
            os._exit(0)
    os.close(writeable)
    with open(readable, "rb") as pipe:
        assert pipe.read() == hashlib.sha256(expected).digest()
    os.waitpid(child, 0)


if __name__ == "__main__":
    sys.stdout.write(lines(fixed_results()))
