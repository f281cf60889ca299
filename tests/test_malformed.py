"""Malformed calls, generated: none is accepted, none crashes, each error names the argument, no input changes.

A case is a good call of a public function with one random damage. FASTGATE_MALFORMED sets the number of cases per
function and package (default 200, so that 22 functions make 4,400); the seed of a case stands in its failure.
"""

import os
import random
import re

import numpy as np
import pytest
from support import CELLS, VARIANTS, delayed, digest, every_module, public_functions, random_call, upstream, values

from fastgate import reference

CASES = int(os.environ.get("FASTGATE_MALFORMED", "200"))
# Sizes that no damage below turns into one another.
N, T, D, H, K = 3, 4, 5, 7, 6
# The same batch on flat rows: lengths 6, 0, 4.
ROWS, OFFSETS, BATCH_SIZES = 10, [0, 6, 6, 10], [3, 3, 2, 2]
DELAYS = [2, 11]
HUGE = (OverflowError, MemoryError)


class Refuses:
    def __array__(self, *_, **__):
        raise RuntimeError("no array here")


class Odd:
    """Not an array, though it has the attributes of one."""

    dtype, shape, ndim, strides, flags = np.dtype(np.float32), (N, T, D), 3, (80, 16, 4), None


# --- damage: each takes what was good and returns what is bad -------------------------------------------------------


def damaged_kind(rng, good):
    """Something that is no array of the dtype of the call."""
    other = np.float64 if good.dtype == np.float32 else np.float32
    choices = [
        lambda: good.astype(other),
        lambda: good.astype(np.float16),
        lambda: good.astype(np.int64),
        lambda: good.astype(np.complex128),
        lambda: good.astype(bool),
        lambda: good.astype(object),
        lambda: good.astype(str),
        lambda: good.astype(np.dtype(other).newbyteorder()),
        lambda: np.zeros(good.shape, [("value", good.dtype)]),
        lambda: np.zeros(good.shape, "datetime64[s]"),
        lambda: np.ma.masked_array(good),
        lambda: good.astype(np.int32).tolist(),
        lambda: "array",
        lambda: b"array",
        lambda: {"array": good},
        lambda: {1.0, 2.0},
        lambda: iter(good),
        lambda: object(),
        lambda: Refuses(),
        lambda: Odd(),
        lambda: len,
        lambda: 1 + 2j,
        lambda: [[1.0], [2.0, 3.0]],
        lambda: [None],
    ]
    return rng.choice(choices)()


def damaged_shape(rng, good):
    """An array of the dtype of the call, of a shape that no argument has."""
    axis = rng.randrange(good.ndim)
    more = list(good.shape)
    more[axis] += rng.choice([1, 2, 9])
    less = list(good.shape)
    less[axis] -= 1
    choices = [
        lambda: np.ones(more, good.dtype),
        lambda: np.ones(less, good.dtype),
        lambda: good[None],
        lambda: good[..., None],
        lambda: np.ones((2, *good.shape), good.dtype),
        lambda: good.reshape(-1)[0],
        lambda: np.array(1, good.dtype),
        lambda: np.ones((0,) * good.ndim, good.dtype),
        lambda: np.ones((1,) * 20, good.dtype),
        lambda: np.broadcast_to(good.reshape(-1)[:1], (2**40,)),
    ]
    if good.ndim > 1:
        choices += [
            lambda: good.T,
            lambda: np.ones(more[::-1], good.dtype),
            lambda: good.reshape(-1),
            lambda: good[0],
        ]
    return rng.choice(choices)()


def damaged_flag(rng):
    return rng.choice([0, 1, None, "True", 1.0, [], np.array([True]), np.int64(1), object()])


def damaged_bound(rng):
    return rng.choice([0, -1.5, np.nan, -np.inf, "1", b"1", True, 1j, [1.0], np.ones(1), object(), 10**400])


def damaged_word(rng, allowed):
    word = rng.choice(allowed)
    bad = [
        word + "x",
        word.upper(),
        word[:-1],
        " " + word,
        "",
        "\0",
        "é" * 50,
        word + word,
        word.encode(),
        0,
        1.5,
    ]
    return rng.choice([*bad, True, [word], (word,), {word: 1}, np.array([word, word]), object()])


def damaged_lengths(rng):
    good = [2, 0, T]
    one = list(good)
    one[rng.randrange(N)] = rng.choice([-1, T + 1, 10**9, -(2**62), 2**63 - 1])
    bad = [
        one,
        np.array(one),
        good[:-1],
        [*good, 1],
        [good],
        np.array(good, float),
        np.array([True, False, True]),
    ]
    bad += [
        3,
        "234",
        [2.0, 0.0, 4.0],
        np.array(good, object),
        [2**80, 0, 1],
        np.zeros((0,), int),
        {2, 0, 4},
        [[1], [2, 3]],
    ]
    bad += [
        np.array([2**64 - 1, 0, 1], np.uint64),
        np.ma.masked_array(good),
        good[0],
        np.array(good, complex),
        Refuses(),
    ]
    return rng.choice(bad)


def damaged_table(rng, name):
    """offsets or batch_sizes of N sequences with ROWS steps, damaged."""
    good = OFFSETS if name == "offsets" else BATCH_SIZES
    at = rng.randrange(len(good))
    one, more, less = list(good), list(good), list(good)
    one[at] = rng.choice([-1, ROWS + 1, 10**9, -(2**62), 2**63 - 1])
    more[at] += 1 if name == "batch_sizes" else ROWS
    less[-1] -= 1
    bad = [
        one,
        np.array(one),
        more,
        less,
        np.array(less, np.uint8),
        [*good, ROWS + 1],
        [*good, -1],
        good[:-1],
        [good],
        good[::-1],
    ]
    bad += [np.array(good, float), [float(n) for n in good], np.array(good, bool), np.array(good, complex)]
    bad += [np.array(good, object), np.array(good).astype(str), [2**80, *good], [2**62] * 5, np.zeros((0,), int), [], 3, None]
    bad += ["0123", set(good), [[1], [2, 3]], np.array([2**64 - 1, *good], np.uint64), np.ma.masked_array(good), Refuses()]
    return rng.choice(bad)


def damaged_period(rng):
    good = [1 + j % 3 for j in range(H)]
    one = list(good)
    one[rng.randrange(H)] = rng.choice([0, -1, 2**62, 2**63 - 1, -(2**62)])
    bad = [one, np.array(one), good[:-1], [*good, 1], [good], [[j] for j in good], [], {1, 2}, Refuses()]
    bad += [0, -1, 2**62, 2**80, 1.0, "2", True, [float(n) for n in good], np.ma.masked_array(good), np.array(good).astype(str)]
    bad += [np.array(good, kind) for kind in (float, bool, complex, object)]
    return rng.choice([*bad, np.array([2**64 - 1] * H, np.uint64)])


def damaged_delays(rng):
    bad = [[], 3, [2, 2], [11, 2], [0, 2], [-1, 2], [2, 2**62], [2, 2**63 - 1], [2, 2**80], [DELAYS], {2, 11}, "2", Refuses()]
    bad += [2.0, True, [2.0, 11.0], [[2], [2, 11]], [None], np.ma.masked_array(DELAYS), np.array(DELAYS).astype(str)]
    bad += [np.array(DELAYS, kind) for kind in (float, bool, complex, object)]
    return rng.choice([*bad, np.array([2, 2**64 - 1], np.uint64), np.zeros((2, 1), int), np.broadcast_to(2, 9)])


def damaged_start(rng):
    return rng.choice([-1, 2**62, -(2**80), 1.0, "1", None, True, np.bool_(False), [0], np.zeros(1, int), object(), 1j, np.nan])


def damaged_mask(rng, shape, dtype):
    """Neither a number, nor bools or floats of the dtype of the call that broadcast to `shape`."""
    good = np.full(shape, 0.5, dtype)
    while True:
        bad = rng.choice([damaged_kind, damaged_shape, lambda *_: 10**400])(rng, good)
        if not isinstance(bad, (np.ndarray, np.generic)) or bad.dtype not in (dtype, bool):
            return bad
        try:
            np.broadcast_to(bad, shape)
        except ValueError:
            return bad


def damaged_out(rng, shapes, dtype, absent):
    """shapes: name -> shape of the outputs; absent: names that this call does not return."""
    name = rng.choice(list(shapes))
    shape = shapes[name]
    array = np.zeros(shape, dtype)
    other = np.float64 if dtype == np.float32 else np.float32
    frozen = array.copy()
    frozen.flags.writeable = False
    longer = np.zeros((shape[0] + 1, *shape[1:]), dtype)
    folded = np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, (0,) * len(shape), writeable=True)
    bad = [
        array.astype(other),
        array.astype(np.dtype(dtype).newbyteorder()),
        array[None],
        longer,
        frozen,
        folded,
    ]
    bad += [
        array.tolist(),
        "array",
        np.ma.masked_array(array),
        array.astype(object),
        0.0,
        array.reshape(-1)[:1],
    ]
    choices = [
        lambda: {name: rng.choice(bad)},
        lambda: {"nonsense": array},
        lambda: {3: array},
        lambda: {None: None},
    ]
    choices += [lambda: [array], lambda: (array,), lambda: name, lambda: 1, lambda: object()]
    if name == next(iter(shapes)) and name not in absent:
        choices.append(lambda: rng.choice([b for b in bad if isinstance(b, np.ndarray)]))
    if absent:
        choices.append(lambda: {rng.choice(absent): array})
    alike = [n for n in shapes if n != name and shapes[n] == shape]
    if alike:
        choices += [lambda: {name: array, alike[0]: array}, lambda: {name: array, alike[0]: array[::-1]}]
    return rng.choice(choices)()


# --- good calls and their damage, function by function --------------------------------------------------------------
# Each returns (arguments, the names that the error may begin with, whether the call is huge).


def flattened(arrays):
    """The batch on flat rows."""
    return {name: a.reshape(N * T, -1)[:ROWS].copy() if name in ("x", "dh") else a for name, a in arrays.items()}


def forward_case(rng, cell, options, step, ragged):
    seed = np.random.default_rng(rng.randrange(2**32))
    dtype = rng.choice([np.float32, np.float64])
    call = random_call(cell, seed, N=N, T=T, D=D, H=H, dtype=dtype, step=step, b=rng.random() < 0.8, bh=rng.random() < 0.5)
    arrays = list(call)
    table = rng.choice(["offsets", "batch_sizes"])
    if ragged:
        call = flattened(call) | {table: OFFSETS if table == "offsets" else BATCH_SIZES}
    call |= dict(options)
    states = cell.states(step)
    if not step and not ragged and rng.random() < 0.5:
        call["lengths"] = [2, 0, T]
    if rng.random() < 0.3:
        call["training"] = False
    kinds = ["kind"] * 3 + ["shape"] * 5 + ["missing", "out", "flag", "huge", "delays", "period", "start", "mask"]
    kinds += ["option"] * bool(options) + ["gate_order"] * (cell.G > 1) + ["table" if ragged else "lengths"] * 2 * (not step)
    damage = rng.choice(kinds)
    if damage != "huge" and rng.random() < 0.3:
        call, _ = delayed(cell, seed, call, {}, DELAYS)
        call["delays"] = DELAYS
    if damage == "kind":
        name = rng.choice(arrays)
        call[name] = damaged_kind(rng, call[name])
        return call, arrays if name == "x" else [name], False
    if damage == "shape":
        name = rng.choice(arrays)
        good = call[name]
        if name == "x":
            bad = damaged_shape(rng, good)
            while bad.ndim == good.ndim and bad.shape[-1] == D and (step or bad.shape[0] == good.shape[0]):
                bad = damaged_shape(rng, good)
            call["x"] = bad
            return call, [*arrays, "lengths", table], False
        while call[name].shape == good.shape or (name in (*states, "alpha") and call[name].shape == good.shape[1:]):
            call[name] = damaged_shape(rng, good)
        return call, ["x", *arrays], False
    if damage == "missing":
        name = rng.choice(["x", "Wx"] + ["Wh"] * (cell.name != "leaky"))
        call[name] = None
        return call, [name], False
    if damage == "flag":
        name = rng.choice(["training"] if step else ["training", "reverse", "return_sequences", "memory"])
        call[name] = rng.choice([0, -(2**70), 1.5, True, "2**20", b"1"]) if name == "memory" else damaged_flag(rng)
        return call, [name], False
    if damage in ("delays", "period", "start"):
        call[damage] = {"delays": damaged_delays, "period": damaged_period, "start": damaged_start}[damage](rng)
        return call, [damage], False
    if damage == "mask":
        P, before = cell.P(H), (N,) if step else (ROWS,) if ragged else (N, T)
        shapes = {"recurrent_mask": (N, P), "zoneout_h": (*before, P), "zoneout_c": (*before, H)}
        name = rng.choice(list(shapes)[: 2 + cell.has_c])
        call[name] = damaged_mask(rng, shapes[name], dtype)
        return call, [name], False
    if damage == "lengths":
        call["lengths"] = damaged_lengths(rng)
        return call, ["lengths"], False
    if damage == "table":
        call[table] = damaged_table(rng, table)
        return call, ["offsets", table, "h0", "c0"], False
    if damage == "gate_order":
        call["gate_order"] = damaged_word(rng, [cell.gates])
        return call, ["gate_order"], False
    if damage == "option":
        name = rng.choice([name for name, _ in options])
        good = call[name]
        damaged = damaged_flag if isinstance(good, bool) else damaged_bound if isinstance(good, float) else damaged_word
        call[name] = damaged(rng, *[[good]] * isinstance(good, str))
        return call, [name], False
    if damage == "out":
        P = cell.P(H)
        h, last = (ROWS, P) if ragged else (N, T, P), (N, DELAYS[-1], P) if "delays" in call else (N, P)
        shapes = {"h_next": last, "c_next": (N, H)} if step else {"h": h, "h_T": last, "c_T": (N, H)}
        if not cell.has_c:
            shapes.popitem()
        absent = ["dx", "h0"]
        if not step and rng.random() < 0.3:
            call["return_sequences"] = False
            absent.append("h")
        call["out"] = damaged_out(rng, shapes, dtype, absent)
        return call, ["out"], False
    one = np.ones((), dtype)
    large = rng.choice([2**45, 2**50, 2**55])
    weights = {name: call[name] for name in ("Wx", "Wh", "Wr") if name in call}
    if ragged and rng.random() < 0.5:
        call = {"x": np.broadcast_to(one, (large, D)), **dict.fromkeys(states), **weights}
        call[table] = [0, 0, large] if table == "offsets" else [large]
    elif not ragged and (rng.random() < 0.5 or step):
        call = {"x": np.broadcast_to(one, (large, D) if step else (large, 1, D)), **dict.fromkeys(states)} | weights
    elif not ragged and rng.random() < 0.5:
        call["x"] = np.broadcast_to(one, (N, large, D))
        call.pop("lengths", None)
    else:
        large = 2**24
        G = cell.G
        call = {name: call[name] for name in ("x", table) if name in call} | dict.fromkeys(states)
        call |= {"Wx": np.broadcast_to(one, (D, G * large)), "Wh": np.broadcast_to(one, (large, G * large))}
    return call, ["x", "Wx", "Wh", table], True


def backward_case(rng, cell, options, step, ragged, module):
    seed = np.random.default_rng(rng.randrange(2**32))
    dtype = rng.choice([np.float32, np.float64])
    biases = {"b": rng.random() < 0.8, "bh": rng.random() < 0.5}
    arguments = random_call(cell, seed, N=N, T=T, D=D, H=H, dtype=dtype, step=step, **biases)
    call = upstream(cell, seed, arguments, step)
    scope, table, delays = "step_" * step + "ragged_" * ragged, {}, {}
    if rng.random() < 0.3:
        arguments, call = delayed(cell, seed, arguments, call, DELAYS)
        delays = {"delays": DELAYS}
    if ragged:
        arguments, call, table = flattened(arguments), flattened(call), {"offsets": OFFSETS}
    result = cell.function(module, f"{scope}forward")(**arguments, **table, **delays, **dict(options))
    arrays = list(call)
    call["cache"] = result.cache
    gradients = {"d" + name: a.shape for name, a in arguments.items()}
    damage = rng.choice(["kind", "shape", "shape", "cache", "need", "out"])
    if damage == "kind" or damage == "shape":
        name = rng.choice(arrays)
        call[name] = (damaged_kind if damage == "kind" else damaged_shape)(rng, call[name])
        return call, [name], False
    if damage == "cache":
        other = rng.choice([c for c in CELLS if c.name != cell.name])
        own = random_call(other, seed, N=N, T=T, D=D, H=H, dtype=dtype, step=step)
        own = flattened(own) if ragged else own
        foreign = other.function(module, f"{scope}forward")(**own, **table).cache
        others = [kind for kind in ("", "step_", "ragged_") if kind != scope]
        kind = rng.choice(others)
        own = random_call(cell, seed, N=N, T=T, D=D, H=H, dtype=dtype, step=kind == "step_")
        own = flattened(own) | {"offsets": OFFSETS} if kind == "ragged_" else own
        twin = cell.function(module, f"{kind}forward")(**own).cache
        sentinel = object()
        call["cache"] = rng.choice([None, foreign, twin, sentinel, 3, "cache", (result.cache,), result, [], cell])
        return call, ["cache"], False
    if damage == "need":
        good = rng.choice(list(gradients))
        call["need"] = rng.choice([good, "all", 3, [None], [good, "dy"], [good[1:]], [0], {good.upper()}, [[good]], True])
        return call, ["need"], False
    absent = ["h", "dy"]
    if rng.random() < 0.5:
        dropped = rng.choice(list(gradients))
        call["need"] = [name for name in gradients if name != dropped]
        absent.append(dropped)
    call["out"] = damaged_out(rng, gradients, dtype, absent)
    return call, ["out"], False


def clip_case(rng, name):
    seed = np.random.default_rng(rng.randrange(2**32))
    limit = "clip_value" if name == "clip_grad_value" else "max_norm"
    grads = [values(seed, (3, 4), np.float32), values(seed, (5,)), None, values(seed, (2, 3, 2))]
    call = {limit: 0.1}
    damage = rng.choice(["container", "entry", "entry", "twice", "limit", "other"])
    if damage == "container":
        call["grads"] = rng.choice([grads[0], None, 1.0, "grads", {1.0}, iter(grads), object(), len])
        return call, ["grads"], False
    blamed = "grads"
    if damage == "entry":
        k = rng.choice([0, 1, 3])
        good = grads[k]
        frozen = good.copy()
        frozen.flags.writeable = False
        folded = np.lib.stride_tricks.as_strided(np.zeros(1, good.dtype), (3, 2), (0, 0), writeable=True)
        bad = [
            good.astype(int),
            good.astype(np.float16),
            good.astype(complex),
            good.astype(object),
            good.astype(str),
        ]
        bad += [
            good.astype(good.dtype.newbyteorder()),
            good.tolist(),
            1.0,
            "g",
            frozen,
            folded,
            np.ma.masked_array(good),
        ]
        bad += [np.broadcast_to(good, (2, *good.shape)), [good], {}, object(), Odd(), good.dtype.type(1)]
        grads[k] = rng.choice(bad)
    elif damage == "twice":
        k = rng.choice([0, 1, 3])
        good = grads[k]
        grads.append(rng.choice([good, good[:], good[1:], good[::-1], good.reshape(-1)[:2], good.T]))
    elif damage == "limit" or name != "clip_grad_norm":
        blamed = limit
        call[limit] = rng.choice([-1, -0.5, np.nan, -np.inf, "1", None, True, 1j, [1.0], np.ones(1), object(), -(10**400)])
    else:
        blamed = rng.choice(["norm_type", "error_if_nonfinite"])
        call[blamed] = damaged_flag(rng) if blamed[0] == "e" else rng.choice([0, -2, np.nan, "inf", None, False, [2], 2j])
    call["grads"] = rng.choice([list, tuple, lambda g: dict(enumerate(g)), lambda g: {str(k): v for k, v in enumerate(g)}])(
        grads
    )
    return call, [blamed], False


def loss_case(rng):
    seed = np.random.default_rng(rng.randrange(2**32))
    dtype = rng.choice([np.float32, np.float64])
    call = {"o": values(seed, (N, T, K), dtype), "y": seed.integers(0, K, (N, T))}
    mask = rng.choice([None, np.ones((N, T), bool), np.ones((N, T), dtype)])
    call |= {} if mask is None else {"mask": mask}
    call |= {"ignore_index": -1} if rng.random() < 0.3 else {}
    damage = rng.choice(["o", "shape", "y", "y", "mask", "ignore_index", "reduction", "huge"])
    if damage == "o":
        call.pop("mask", None)
        call["o"] = damaged_kind(rng, call["o"])
        while (
            isinstance(call["o"], np.ndarray)
            and type(call["o"]) is np.ndarray
            and call["o"].dtype.kind == "f"
            and call["o"].itemsize > 2
        ):
            call["o"] = damaged_kind(rng, values(seed, (N, T, K), dtype))
        return call, ["o", "y"], False
    if damage == "shape":
        bad = damaged_shape(rng, call["o"])
        while bad.shape[:-1] == (N, T):
            bad = damaged_shape(rng, call["o"])
        call["o"] = bad
        return call, ["o", "y"], False
    if damage == "y":
        good = call["y"]
        one = good.copy()
        one[rng.randrange(N), rng.randrange(T)] = rng.choice([K, -2, 2**40, -(2**63)])
        bad = [
            one,
            one.tolist(),
            good.astype(float),
            good.astype(bool),
            good.astype(object),
            good.astype(str),
            good.T,
            good[0],
        ]
        bad += [
            good[None],
            good[:, :1],
            None,
            1.5,
            "y",
            np.ma.masked_array(good),
            Refuses(),
            [[0], [1, 2]],
            good == 0,
            {1},
        ]
        call["y"] = rng.choice(bad)
        return call, ["y"], False
    if damage == "mask":
        good = np.ones((N, T), dtype)
        bad = [
            -good,
            good * np.nan,
            good * np.inf,
            good[0],
            good.T,
            good[..., None],
            np.float64(1),
            good.astype(int),
            "mask",
        ]
        bad += [
            good.astype(np.float16),
            good.astype(complex),
            np.ma.masked_array(good),
            object(),
            {0.5},
            Refuses(),
        ]
        call["mask"] = rng.choice(bad)
        return call, ["mask"], False
    if damage == "ignore_index":
        call["ignore_index"] = rng.choice([1.0, "0", True, [0], np.zeros(1, int), 1j, object(), np.nan])
        return call, ["ignore_index"], False
    if damage == "reduction":
        call["reduction"] = damaged_word(rng, ["sum", "mean", "none"])
        return call, ["reduction"], False
    large = rng.choice([2**45, 2**50, 2**55])
    call = {"o": np.broadcast_to(np.ones((), dtype), (large, K)), "y": np.broadcast_to(np.int64(1), (large,))}
    return call, ["o"], True


def case(rng, name, module):
    if name.startswith("clip"):
        return clip_case(rng, name)
    if name == "softmax_cross_entropy":
        return loss_case(rng)
    own = max((c.name for c in CELLS if name.startswith(f"{c.name}_")), key=len)
    cell, options = rng.choice([(c, o) for c, o in VARIANTS if c.name == own])
    step, ragged = "_step_" in name, "_ragged_" in name
    if name.endswith("forward"):
        return forward_case(rng, cell, options, step, ragged)
    return backward_case(rng, cell, options, step, ragged, module)


# --- the test -------------------------------------------------------------------------------------------------------


def judged(function, call, names, huge):
    """None, or what is wrong with how the function took a malformed call."""
    before = digest(call)
    try:
        function(**call)
    except (ValueError, TypeError, *HUGE) as error:
        message = str(error)
        if digest(call) != before:
            return f"an input changed: {message}"
        if huge is not isinstance(error, HUGE):
            return f"{type(error).__name__}: {message}"
        if not re.match(rf"({'|'.join(names)})\b", message):
            return f"the message begins with none of {names}: {message}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@every_module
@pytest.mark.parametrize("name", public_functions(reference))
def test_malformed_calls_are_refused(module, name):
    function = getattr(module, name)
    for seed in range(CASES):
        rng = random.Random(f"{name} {seed}")
        call, names, huge = case(rng, name, module)
        wrong = judged(function, call, names, huge)
        if wrong:
            shown = {k: (v.shape, v.dtype) if isinstance(v, np.ndarray) else v for k, v in call.items()}
            pytest.fail(f"{name}, seed {seed}: {wrong}\n{shown}")


@every_module
def test_every_public_function_is_in_the_list(module):
    assert len(public_functions(module)) == len(reference.__all__)
    assert len(public_functions(module)) * 200 >= 2000
