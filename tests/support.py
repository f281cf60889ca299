"""What the tests share.

CELLS             the cells, read from the reference package: a new cell is tested without an edit here
VARIANTS          (cell, options) that most tests run through
KINDS             the first of each kind of them: as many as there are kernels, the peephole, and an alpha for each unit
REACHING          the first and the last of each kind, which reach the memory of all
SANITIZED         whether the tests run under AddressSanitizer
EXACT             those of them whose backward is the derivative of their forward: no gradient is clipped
Cell              name, gates, states, its options one by one, its functions in a module
WEIGHTS           the names of arguments that do not belong to a row of the batch
BY_GATES          those of them that have a block for each gate
modules()         the packages under test: fastgate.reference, and fastgate where its compiled part is built
every_module      runs a test for each of them
definition        marks what runs the reference alone: the same at every level, and nothing for a sanitizer
random_call       random, distinct, non-zero arguments of one forward call
upstream          random upstream gradients for its results
delayed           both, of a call with delays
prepare           the prepared cell of a call, and the arguments that are left
run               forward and backward at once: all results by name
differentiate     the gradients of a call beside central differences
is_steady         whether rounding can move no input of relu across 0
assert_same       the same bits under the same names
naming            a block: what is raised in it names a case
each              a decorator: one test of many cases
permuted          columns of a weight or bias moved into another gate order
status_of_child   exit status of a fork that works while another thread of its parent holds a lock
digest            a hash of the memory of every array in a structure, to prove that nothing was written
"""

import contextlib
import functools
import hashlib
import importlib
import inspect
import itertools
import math
import os
import signal
import threading
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fastgate import _arguments, reference

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


@dataclass(frozen=True)
class Cell:
    name: str
    gates: str
    has_c: bool
    options: tuple  # combinations of the cell's own options, as tuples of (name, value), the plain cell first
    peephole: bool = False  # whether its calls have one
    projection: bool = False  # whether they have a Wr
    alpha: bool = False  # whether they have one for each unit
    norm: tuple = ()  # the names of gains and betas that they have

    @property
    def G(self):
        return len(self.gates)

    def function(self, module, what):
        """what: forward or backward, ragged_… or step_… too."""
        return getattr(module, f"{self.name}_{what}")

    @property
    def prepared(self):
        """The name of its prepared class."""
        return f"{_arguments.class_name(self.name)}Cell"

    @property
    def holds(self):
        """Whether it knows period=."""
        return not self.projection and "gain_c" not in self.norm

    def states(self, step=False):
        h, c = ("h_prev", "c_prev") if step else ("h0", "c0")
        return (h, c) if self.has_c else (h,)

    def P(self, H):
        """The width of h."""
        return H // 2 + 1 if self.projection else H

    def sizes(self, call):
        """The width of each state of a call."""
        return (call["Wh"].shape[0], call["Wh"].shape[1] // self.G)[: 1 + self.has_c]

    def __repr__(self):
        with_ = {"peephole": self.peephole, "projection": self.projection, "alpha": self.alpha, "gain_c": "gain_c" in self.norm}
        return "-".join([self.name, *(name for name, has in with_.items() if has)])


NORM = ("gain_x", "gain_h", "gain_c", "beta_c")
BY_GATES = ("Wx", "Wh", "b", "bh", *NORM[:2])
WEIGHTS = ("Wx", "Wh", "b", "bh", "peephole", "Wr", "alpha", *NORM)

# Of a cell whose combinations are too many to run everything on: these. test_options.py runs through all.
CHOSEN = {
    "rnn": (
        *((("activation", name),) for name in ("tanh", "relu", "sigmoid", "identity")),
        (("activation", "sigmoid"), ("grad_clip", 0.1)),
    ),
    "memory": ((), (("output", "identity"), ("activation", "identity"), ("grad_clip", 2.0))),
    "leaky": ((), (("activation", "sigmoid"), ("grad_clip", 0.1))),
    "lstm": (
        (),
        (("candidate", "sigmoid"), ("coupled", True)),
        (("cell_clip", 0.5), ("preact_clip", 1.0)),
        (("grad_clip", 0.1),),
    ),
    "gru": (
        (("reset", "after"),),
        (("reset", "after"), ("update", "new")),
        (("reset", "after"), ("candidate", "sigmoid")),
        (("reset", "after"), ("update", "new"), ("grad_clip", 0.1)),
        (("reset", "before"),),
        (("reset", "before"), ("update", "new"), ("candidate", "sigmoid")),
        (("reset", "before"), ("grad_clip", 0.1)),
    ),
    # A small eps keeps nothing of the scale of a row, which is all that there is of a row of one number times a weight.
    "lstm_norm": ((("eps", 0.3),),),
    "gru_norm": ((("eps", 0.2),),),
}


def _cell(name):
    module = importlib.import_module(f"fastgate.reference.{name}")
    parameters = inspect.signature(getattr(reference, f"{name}_forward")).parameters
    choices = [[(option, value) for value in values] for option, values in module.OPTIONS.items()]
    options = CHOSEN.get(name, tuple(itertools.product(*choices)))
    return Cell(name, module.GATES, "c0" in parameters, options, norm=NORM[: 2 * ("gain_x" in parameters)])


CELLS = tuple(_cell(name.removesuffix("_step_forward")) for name in reference.__all__ if name.endswith("_step_forward"))
LSTM = next(cell for cell in CELLS if cell.name == "lstm")
PEEPHOLE = replace(LSTM, peephole=True)
PROJECTED = replace(LSTM, projection=True)
LEAKY = next(cell for cell in CELLS if cell.name == "leaky")
LEAKY_UNITS = replace(LEAKY, alpha=True)
NORMALISED_C = replace(next(cell for cell in CELLS if cell.name == "lstm_norm"), norm=NORM)
VARIANTS = tuple((cell, options) for cell in CELLS for options in cell.options)
VARIANTS += ((PEEPHOLE, ()), (PEEPHOLE, (("grad_clip", 0.1),)))
ALL_BUT_GRAD_CLIP = tuple(option for option in itertools.chain(*LSTM.options) if option[0] != "grad_clip")
VARIANTS += ((PEEPHOLE, ALL_BUT_GRAD_CLIP), (PROJECTED, ()), (replace(PEEPHOLE, projection=True), ALL_BUT_GRAD_CLIP))
VARIANTS += ((LEAKY_UNITS, ()),)
VARIANTS += ((NORMALISED_C, (("eps", 0.4),)),)

# Options that only choose arithmetic read the same weights and reach the same memory.
_first, _last = {}, {}
for _variant in VARIANTS:
    _kind = repr(_variant[0]), dict(_variant[1]).get("reset")
    _first.setdefault(_kind, _variant)
    _last[_kind] = _variant
KINDS = tuple(_first.values())
REACHING = tuple(variant for variant in VARIANTS if variant in (*KINDS, *_last.values()))
if SANITIZED:
    VARIANTS = REACHING
EXACT = tuple(variant for variant in VARIANTS if "grad_clip" not in dict(variant[1]))


def variant_id(variant):
    cell, options = variant
    return "-".join([repr(cell), *(value if isinstance(value, str) else name for name, value in options)])


def modules():
    """fastgate.reference, and fastgate itself where it is built."""
    import fastgate

    return [reference] + ([fastgate] if hasattr(fastgate, "lstm_forward") else [])


definition = pytest.mark.definition
every_module = pytest.mark.parametrize(
    "module",
    [pytest.param(module, marks=definition) if module is reference else module for module in modules()],
    ids=lambda module: module.__name__,
)


def public_functions(module):
    """The names in `module` that take arrays."""
    return [name for name in module.__all__ if hasattr(reference, name)]


def values(rng, shape, dtype=np.float64, scale=1.0):
    """Random values, distinct, none of them zero."""
    return np.asarray(scale * rng.normal(size=shape)).astype(dtype)


def random_call(cell, rng, *, N=3, T=5, D=4, H=6, dtype=np.float64, step=False, b=True, bh=True):
    """The arrays of a forward call by name; weights of the size that keeps activations lively."""
    G, P = cell.G, cell.P(H)
    call = {"x": values(rng, (N, D) if step else (N, T, D), dtype)}
    for state, size in zip(cell.states(step), (P, H), strict=False):
        call[state] = values(rng, (N, size), dtype, 0.7)
    call["Wx"] = values(rng, (D, G * H), dtype, 1 / np.sqrt(D + 1))
    call["Wh"] = values(rng, (P, G * H), dtype, 1 / np.sqrt(P + 1))
    if b:
        call["b"] = values(rng, (G * H,), dtype, 0.5)
    if bh:
        call["bh"] = values(rng, (G * H,), dtype, 0.5)
    if cell.peephole:
        call["peephole"] = values(rng, (3 * H,), dtype, 0.5)
    if cell.projection:
        call["Wr"] = values(rng, (H, P), dtype, 2 / np.sqrt(H + 1))
    if cell.alpha:
        call["alpha"] = rng.uniform(0.05, 0.95, H).astype(dtype)
    sizes = dict(zip(NORM, (G * H, G * H, H, H), strict=True))
    for name in cell.norm if b else cell.norm[:3]:
        call[name] = values(rng, (sizes[name],), dtype, 0.5 if name == "beta_c" else 1)
    return settled(cell, call)


def settled(cell, call):
    """The arrays of a call, for a cell that adds up all it is given so small that its sums stay near 1, with Wh so that a state
    is called back by what comes of it. With others both grow, in any arithmetic: the sums, in whose last places rounding is
    measured, and by a positive Wh every error, exponentially."""
    if cell.name != "memory":
        return call
    shares = {"c0": 4, "c_prev": 4, "Wx": 4, "Wh": 8, "b": 32, "bh": 32}
    call = {name: a / a.dtype.type(shares.get(name, 1)) for name, a in call.items()}
    return call | {"Wh": call["Wh"] - np.eye(len(call["Wh"]), dtype=call["Wh"].dtype) / 2}


def upstream(cell, rng, call, step=False):
    """Random gradients of the results, by the name of the backward argument."""
    N, sizes, dtype = call["x"].shape[0], cell.sizes(call), call["x"].dtype
    if step:
        return {name: values(rng, (N, size), dtype) for name, size in zip(("dh_next", "dc_next"), sizes, strict=False)}
    gradients = {"dh": values(rng, (N, call["x"].shape[1], sizes[0]), dtype)}
    return gradients | {name: values(rng, (N, size), dtype) for name, size in zip(("dh_T", "dc_T"), sizes, strict=False)}


def delayed(cell, rng, call, gradients, delays):
    """(arguments, upstream gradients) with a Wh for each of the delays and states of the last steps."""
    h0, dh_T = ("h_prev", "dh_next") if "h_prev" in call else ("h0", "dh_T")
    (P, GH), (N, _), dtype = call["Wh"].shape, call[h0].shape, call["x"].dtype
    K, d = len(delays), max(delays)
    share = 1 / 8 if cell.name == "memory" else 1
    call = call | {"Wh": values(rng, (K, P, GH), dtype, share / np.sqrt(K * P + 1)), h0: values(rng, (N, d, P), dtype, 0.7)}
    return call, gradients | {dh_T: values(rng, (N, d, P), dtype)}


def prepare(cell, call, **options):
    """(the prepared cell of a call or of a step, the arguments that are left)."""
    import fastgate

    left = {name: a for name, a in call.items() if name not in WEIGHTS}
    return getattr(fastgate, cell.prepared)(**weights_of(call), **options), left


def reordered(cell, call, order):
    """The arguments of a call that have a block for each gate, in another gate order."""
    return {name: permuted(call[name], cell.gates, order) for name in BY_GATES if name in call}


def weights_of(call):
    return {name: a for name, a in call.items() if name in WEIGHTS}


def of_weights(name):
    """Whether a gradient belongs to the weights, not to rows of the batch."""
    return name[0] == "d" and name[1:] in WEIGHTS


def run(cell, module, call, gradients=None, step=False, need=None, ragged=False, **keywords):
    """Results of forward, and of backward where upstream gradients are given, as {name: array}."""
    forward, backward = (f"{'step_' * step}{'ragged_' * ragged}{what}" for what in ("forward", "backward"))
    found = cell.function(module, forward)(**call, **keywords)
    results = {name: getattr(found, name) for name in found._fields[:-1]}
    if gradients is not None:
        results |= cell.function(module, backward)(cache=found.cache, **gradients, need=need)._asdict()
    return {name: a for name, a in results.items() if a is not None}


def differentiate(cell, call, gradients, seed, step=False, **keywords):
    """The gradients of the reference equal central differences, along a random direction of each argument and of all: relative
    error <= 1e-7."""
    names = ("h_next", "c_next") if step else ("h", "h_T", "c_T")
    found = run(cell, reference, call, gradients, step=step, **keywords)

    def loss(arguments):
        results = run(cell, reference, arguments, step=step, **keywords)
        return sum(float((gradients[f"d{name}"] * results[name]).sum()) for name in names if name in results)

    def difference(e, direction):
        plus, minus = ({n: a + s * direction.get(n, 0) for n, a in call.items()} for s in (e, -e))
        return (loss(plus) - loss(minus)) / (2 * e)

    rng = np.random.default_rng(seed)
    directions = {name: values(rng, a.shape) for name, a in call.items()}
    for direction in (*({name: v} for name, v in directions.items()), directions):
        numeric = (4 * difference(1e-4, direction) - difference(2e-4, direction)) / 3
        exact = sum(float((found["d" + n] * v).sum()) for n, v in direction.items())
        size = math.sqrt(sum(float((found["d" + n] ** 2).sum()) for n in direction))
        assert abs(exact - numeric) <= 1e-7 * max(abs(exact), size), (list(direction), exact, numeric)


def inside(cache):
    """Where nothing was clipped: what the steps of the reference keep as bools."""
    return [a for *_, kept in cache.steps for a in kept if a.dtype == bool]


def is_steady(cell, call, step=False, ragged=False, **keywords):
    """Whether rounding in the dtype of the call cannot move an input of relu across 0, nor what is clipped across its bound,
    where the slope jumps."""
    eps = np.finfo(call["x"].dtype).eps
    bounds = {name: keywords[name] for name in ("cell_clip", "preact_clip") if keywords.get(name)}
    if call["x"].dtype == np.float64 or (keywords.get("activation") != "relu" and not bounds):
        return True
    call = {name: a.astype(np.float64) for name, a in call.items()}
    if bounds:
        forward = cell.function(reference, f"{'step_' * step}{'ragged_' * ragged}forward")
        moved = ({name: bound * (1 + move) for name, bound in bounds.items()} for move in (-8 * eps, 8 * eps))
        sides = [inside(forward(**call, **keywords | bound).cache) for bound in moved]
        return all(np.array_equal(a, b) for a, b in zip(*sides, strict=True))
    distance = 16 * eps
    b = call.pop("b", np.zeros(call["Wx"].shape[1]))
    signs = [run(cell, reference, call | {"b": b + move}, step=step, **keywords) for move in (-distance, distance)]
    return all(np.array_equal(a > 0, b > 0) for a, b in zip(*(s.values() for s in signs), strict=True))


@contextlib.contextmanager
def naming(case):
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the case {case}")
        raise


def each(names, cases):
    """pytest.mark.parametrize, but with all cases in one test, for cases that take less time than a test does."""
    names = (names,) if isinstance(names, str) else names

    def decorated(test):
        @functools.wraps(test)
        def all_cases(**arguments):
            for case in cases:
                given = dict(zip(names, (case,) if len(names) == 1 else case, strict=True))
                with naming(", ".join(f"{name}={value}" for name, value in given.items())):
                    test(**arguments, **given)

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in names]
        all_cases.__signature__ = signature.replace(parameters=left)
        return all_cases

    return decorated


def permuted(weight, gates, order):
    """A weight (..., G·H) with gates in canonical order, as the caller holds it whose gate order is `order`."""
    blocks = np.split(weight, len(gates), axis=-1)
    return np.concatenate([blocks[gates.index(gate)] for gate in order], axis=-1)


def bits(a):
    return a.view(f"u{a.itemsize}")


def assert_same(found, expected, names=None):
    """The same bits under the same names; `names`: only these."""
    assert names is not None or found.keys() == expected.keys()
    for name in found if names is None else names:
        assert found[name].dtype == expected[name].dtype, name
        np.testing.assert_array_equal(bits(found[name]), bits(expected[name]), err_msg=name)


def status_of_child(lock, work):
    """Exit status of a child, forked while another thread holds the lock: 0 where work() is true."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if work() else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.set()
    thread.join()
    return status


def digest(*things):
    """A hash over shape, dtype, flags and memory of every array in nested lists, tuples and dicts."""
    h = hashlib.sha256()
    stack = list(things)
    while stack:
        thing = stack.pop()
        if isinstance(thing, dict):
            stack += thing.values()
        elif isinstance(thing, (list, tuple)):
            stack += thing
        elif isinstance(thing, np.ndarray):
            h.update(repr((thing.shape, thing.strides, thing.dtype.str, thing.flags.num)).encode())
            if thing.dtype != object:
                h.update(np.ascontiguousarray(once(thing)).tobytes())
    return h.hexdigest()


def once(array):
    """The array without its broadcast axes."""
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]
