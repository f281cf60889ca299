"""What the tests share.

CELLS             the cells, read from the reference package: a new cell is tested without an edit here
Cell              name, gates, states, its options one by one, its functions in a module
modules()         the packages under test: fastgate.reference, and fastgate where its compiled part is built
random_call       random, distinct, non-zero arguments of one forward call
upstream          random upstream gradients for its results
prepare           the prepared cell of a call, and the arguments that are left
run               forward and backward at once: all results by name
is_steady         whether rounding can move no input of relu across 0
assert_same       the same bits under the same names
permuted          columns of a weight or bias moved into another gate order
digest            a hash of the memory of every array in a structure, to prove that nothing was written
"""

import hashlib
import importlib
import inspect
import itertools
from dataclasses import dataclass

import numpy as np

from fastgate import reference


@dataclass(frozen=True)
class Cell:
    name: str
    gates: str
    has_c: bool
    options: tuple  # every combination of the cell's own options, as tuples of (name, value)

    @property
    def G(self):
        return len(self.gates)

    def function(self, module, what):
        """what: forward or backward, ragged_… or step_… too."""
        return getattr(module, f"{self.name}_{what}")

    def states(self, step=False):
        h, c = ("h_prev", "c_prev") if step else ("h0", "c0")
        return (h, c) if self.has_c else (h,)

    def __repr__(self):
        return self.name


def _cell(name):
    module = importlib.import_module(f"fastgate.reference.{name}")
    parameters = inspect.signature(getattr(reference, f"{name}_forward")).parameters
    choices = [[(option, value) for value in values] for option, values in module.OPTIONS.items()]
    return Cell(name, module.GATES, "c0" in parameters, tuple(itertools.product(*choices)))


CELLS = tuple(_cell(name.removesuffix("_step_forward")) for name in reference.__all__ if name.endswith("_step_forward"))
VARIANTS = tuple((cell, options) for cell in CELLS for options in cell.options)


def variant_id(variant):
    cell, options = variant
    return "-".join([cell.name, *(value for _, value in options)])


def modules():
    """fastgate.reference, and fastgate itself where it is built."""
    import fastgate

    return [reference] + ([fastgate] if hasattr(fastgate, "lstm_forward") else [])


def public_functions(module):
    """The names in `module` that take arrays."""
    return [name for name in module.__all__ if hasattr(reference, name)]


def values(rng, shape, dtype=np.float64, scale=1.0):
    """Random values, distinct, none of them zero."""
    return np.asarray(scale * rng.normal(size=shape)).astype(dtype)


def random_call(cell, rng, *, N=3, T=5, D=4, H=6, dtype=np.float64, step=False, b=True, bh=True):
    """The arrays of a forward call by name; weights of the size that keeps activations lively."""
    G = cell.G
    call = {"x": values(rng, (N, D) if step else (N, T, D), dtype)}
    for state in cell.states(step):
        call[state] = values(rng, (N, H), dtype, 0.7)
    call["Wx"] = values(rng, (D, G * H), dtype, 1 / np.sqrt(D + 1))
    call["Wh"] = values(rng, (H, G * H), dtype, 1 / np.sqrt(H + 1))
    if b:
        call["b"] = values(rng, (G * H,), dtype, 0.5)
    if bh:
        call["bh"] = values(rng, (G * H,), dtype, 0.5)
    return call


def upstream(cell, rng, call, step=False):
    """Random gradients of the results, by the name of the backward argument."""
    N, H, dtype = call["x"].shape[0], call["Wh"].shape[0], call["x"].dtype
    if step:
        return {name: values(rng, (N, H), dtype) for name in ("dh_next", "dc_next")[: 1 + cell.has_c]}
    gradients = {"dh": values(rng, (N, call["x"].shape[1], H), dtype)}
    return gradients | {name: values(rng, (N, H), dtype) for name in ("dh_T", "dc_T")[: 1 + cell.has_c]}


def prepare(cell, call, **options):
    """(the prepared cell of a call or of a step, the arguments that are left)."""
    import fastgate

    weights = ("Wx", "Wh", "b", "bh")
    left = {name: a for name, a in call.items() if name not in weights}
    given = {name: a for name, a in call.items() if name in weights}
    return getattr(fastgate, f"{cell.name.upper()}Cell")(**given, **options), left


def run(cell, module, call, gradients=None, step=False, need=None, ragged=False, **keywords):
    """Results of forward, and of backward where upstream gradients are given, as {name: array}."""
    forward, backward = (f"{'step_' * step}{'ragged_' * ragged}{what}" for what in ("forward", "backward"))
    found = cell.function(module, forward)(**call, **keywords)
    results = {name: getattr(found, name) for name in found._fields[:-1]}
    if gradients is not None:
        results |= cell.function(module, backward)(cache=found.cache, **gradients, need=need)._asdict()
    return {name: a for name, a in results.items() if a is not None}


def is_steady(cell, call, step=False, **keywords):
    """Whether rounding in the dtype of the call cannot move an input of relu across 0, where its slope jumps."""
    if keywords.get("activation") != "relu" or call["x"].dtype == np.float64:
        return True
    distance = 16 * np.finfo(call["x"].dtype).eps
    call = {name: a.astype(np.float64) for name, a in call.items()}
    b = call.pop("b", np.zeros(call["Wx"].shape[1]))
    signs = [run(cell, reference, call | {"b": b + move}, step=step, **keywords) for move in (-distance, distance)]
    return all(np.array_equal(a > 0, b > 0) for a, b in zip(*(s.values() for s in signs), strict=True))


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
