"""torch.nn's recurrent modules and those of fastgate.compat.torch, side by side: the same calls, results, gradients, errors."""

import copy
import importlib
import io
import itertools
import pickle
import re
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest

import fastgate

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

ours = importlib.import_module("fastgate.compat.torch")
accelerate, restore = ours.accelerate, ours.restore
nn, parametrize = torch.nn, torch.nn.utils.parametrize
PackedSequence, pack_padded_sequence = torch.nn.utils.rnn.PackedSequence, torch.nn.utils.rnn.pack_padded_sequence

pytestmark = [
    pytest.mark.beside,
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),  # torch's, about itself
]

torch.set_num_threads(1)  # as fastgate has in tests: the workers of pytest-xdist share the CPUs

LAYERS, CELLS = ("LSTM", "GRU", "RNN"), ("LSTMCell", "GRUCell", "RNNCell")
FUNCTIONS = {name: getattr(fastgate, name) for name in fastgate.__all__ if name.endswith(("_forward", "_backward"))}
DTYPES = (torch.float32, torch.float64)
# Errors relative to the largest value of an array; torch's own float32 gradients are the less accurate ones.
CLOSE = {torch.float32: 3e-5, torch.float64: 1e-10}
SIZES = [  # T, N, D, H
    (1, 1, 1, 1), (1, 1, 5, 7), (4, 1, 3, 8), (1, 5, 9, 9), (3, 4, 16, 15),
    (5, 3, 7, 16), (2, 2, 31, 17), (3, 17, 2, 31), (2, 3, 8, 33),
]  # fmt: skip

layers = pytest.mark.parametrize("name", LAYERS)
cells = pytest.mark.parametrize("name", CELLS)
modules = pytest.mark.parametrize("name", LAYERS + CELLS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def values(*shape, dtype=torch.float64, scale=1.0):
    """Random values, distinct, none of them zero, that ask for gradients."""
    return (scale * torch.randn(*shape, dtype=torch.float64)).to(dtype).requires_grad_()


def pair(name, *arguments, **options):
    """(torch's module, ours) with the same random parameters, all of them different from zero."""
    theirs = getattr(nn, name)(*arguments, **options)
    mine = getattr(ours, name)(*arguments, **options)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def states(module, N, dtype, scale=0.7):
    """Random initial states as the module takes them; N a number, or () for unbatched input."""
    before = () if N == () else (N,)
    if isinstance(module, nn.RNNBase):
        before = (module.num_layers * (2 if module.bidirectional else 1), *before)
    sizes = (getattr(module, "proj_size", 0) or module.hidden_size, module.hidden_size)
    count = 2 if "LSTM" in type(module).__name__ else 1
    found = [values(*before, size, dtype=dtype, scale=scale) for size in sizes[:count]]
    return tuple(found) if len(found) == 2 else found[0]


def tensors(structure):
    """All tensors of nested tuples, packed sequences included, in order."""
    if isinstance(structure, torch.Tensor):
        return [structure]
    if isinstance(structure, (tuple, list)):
        return [tensor for part in structure for tensor in tensors(part)]
    return []


def clone(structure):
    """The same tensors, leaves of their own."""
    if isinstance(structure, torch.Tensor):
        return structure.detach().clone().requires_grad_(structure.requires_grad)
    if isinstance(structure, PackedSequence):
        return PackedSequence(*map(clone, structure))
    if isinstance(structure, tuple):
        return tuple(map(clone, structure))
    return structure


def upstream(outputs, seed=5):
    """Random gradients of the outputs that have any."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]


def everything(module, arguments, seed=None):
    """Outputs, and the gradients of arguments and parameters, by name."""
    arguments = clone(arguments)
    module.zero_grad()
    if seed is not None:
        torch.manual_seed(seed)
    outputs = [o for o in tensors(module(*arguments)) if o.is_floating_point()]
    leaves = [t for t in tensors(arguments) if t.requires_grad]
    torch.autograd.backward(outputs, upstream(outputs))
    found = {f"output {k}": o for k, o in enumerate(outputs)} | {f"gradient {k}": t.grad for k, t in enumerate(leaves)}
    return found | {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, e in expected.items():
        f = found[name]
        assert (f is None) == (e is None), name
        if e is not None:
            assert (f.dtype, f.shape, f.device) == (e.dtype, e.shape, e.device), name
            error = (f - e).abs().max() / e.abs().max().clamp_min(1e-3)
            assert error <= tolerance, f"{name}: {error:.2e}"


def assert_equal_modules(theirs, mine, arguments, dtype, seed=None):
    assert_close(everything(mine, arguments, seed), everything(theirs, arguments, seed), CLOSE[dtype])


@pytest.fixture
def calls(monkeypatch):
    """The functions of fastgate that are called, in order."""
    found = []
    for name in FUNCTIONS:

        def watched(*arguments, name=name, function=FUNCTIONS[name], **options):
            found.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(fastgate, name, watched)
    return found


# --- layers --------------------------------------------------------------------------------------------------------


def options_of(name):
    """Every combination of the options of a layer."""
    for num_layers, bias, batch_first, bidirectional in itertools.product((1, 2), (True, False), (True, False), (True, False)):
        found = {"num_layers": num_layers, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
        own = {"RNN": [{"nonlinearity": "tanh"}, {"nonlinearity": "relu"}], "LSTM": [{}, {"proj_size": 4}], "GRU": [{}]}
        for more in own[name]:
            yield found | more


@dtypes
@layers
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "states"])
def test_every_option(name, dtype, given, calls):
    for options in options_of(name):
        theirs, mine = pair(name, 5, 9, dtype=dtype, **options)
        state = [states(mine, 4 if options["batch_first"] else 3, dtype)] if given else []
        arguments = (values(4, 3, 5, dtype=dtype), *state)
        calls.clear()
        assert_equal_modules(theirs, mine, arguments, dtype)
        runs = options["num_layers"] * (1 + options["bidirectional"])
        assert calls == [f"{name.lower()}_forward"] * runs + [f"{name.lower()}_backward"] * runs


@dtypes
@layers
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes_around_the_lane_counts(name, dtype, sizes):
    T, N, D, H = sizes
    theirs, mine = pair(name, D, H, dtype=dtype, bidirectional=True)
    assert_equal_modules(theirs, mine, (values(T, N, D, dtype=dtype), states(mine, N, dtype)), dtype)


@dtypes
@layers
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_input(name, dtype, batch_first, calls):
    theirs, mine = pair(name, 5, 9, num_layers=2, bidirectional=True, batch_first=batch_first, dtype=dtype)
    for arguments in [(values(4, 5, dtype=dtype),), (values(4, 5, dtype=dtype), states(mine, (), dtype))]:
        assert_equal_modules(theirs, mine, arguments, dtype)
    assert calls.count(f"{name.lower()}_forward") == 8


@dtypes
@layers
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("lengths", [[2, 7, 1, 5, 5], [4, 4, 4], [1, 1], [3]], ids=str)
def test_packed_sequences(name, dtype, enforce_sorted, lengths, calls):
    if enforce_sorted:
        lengths = sorted(lengths, reverse=True)
    for options in options_of(name) if len(lengths) == 5 else [{}, {"num_layers": 2, "bidirectional": True}]:
        theirs, mine = pair(name, 5, 9, dtype=dtype, **options)
        padded = torch.randn(len(lengths), max(lengths), 5, dtype=dtype)
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=enforce_sorted)
        packed.data.requires_grad_()
        for arguments in [(packed,), (packed, states(mine, len(lengths), dtype))]:
            calls.clear()
            assert_equal_modules(theirs, mine, arguments, dtype)
            assert set(calls) == {f"{name.lower()}_ragged_forward", f"{name.lower()}_ragged_backward"}
            found, expected = mine(*arguments)[0], theirs(*arguments)[0]
            assert type(found) is PackedSequence
            for a, b in zip(found[1:], expected[1:], strict=True):
                assert (a is None and b is None) or torch.equal(a, b)


def test_packed_sequences_as_they_are_used():
    """pack_sequence, a layer, pad_packed_sequence: gradients arrive at the sequences that went in."""
    theirs, mine = pair("GRU", 5, 9, bidirectional=True, dtype=torch.float64)
    found = []
    for module in (theirs, mine):
        torch.manual_seed(1)
        sequences = [values(T, 5) for T in (2, 6, 3)]
        packed, h_n = module(nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
        padded, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        assert lengths.tolist() == [2, 6, 3]
        (padded.sin().sum() + (h_n**2).sum()).backward()
        found.append({str(k): t.grad for k, t in enumerate(sequences)} | {"h": padded, "h_n": h_n})
    assert_close(*reversed(found), 1e-10)


@dtypes
@layers
def test_dropout_is_torchs_own(name, dtype):
    """The same numbers fall under the same seed, in a packed sequence too; none in eval mode."""
    theirs, mine = pair(name, 5, 9, num_layers=3, dropout=0.4, bidirectional=True, dtype=dtype, batch_first=True)
    x = values(3, 6, 5, dtype=dtype)
    packed = pack_padded_sequence(x.detach(), [6, 2, 4], batch_first=True, enforce_sorted=False)
    for arguments in [(x,), (packed,)]:
        assert_equal_modules(theirs, mine, arguments, dtype, seed=11)
        first, second = (everything(mine, arguments, seed)["output 0"] for seed in (11, 12))
        assert not torch.allclose(first, second)
        theirs.eval(), mine.eval()
        assert_equal_modules(theirs, mine, arguments, dtype)
        assert torch.equal(tensors(mine(*arguments))[0], tensors(mine(*arguments))[0])
        theirs.train(), mine.train()
    theirs, mine = pair(name, 5, 9, num_layers=2, dropout=1.0, dtype=dtype)
    assert_equal_modules(theirs, mine, (x.transpose(0, 1),), dtype)


@layers
def test_outputs_lie_in_memory_as_torchs_do(name):
    """So that .view works where it works with torch, whatever the strides of the input."""
    for batch_first, dtype in itertools.product((False, True), DTYPES):
        theirs, mine = pair(name, 5, 9, batch_first=batch_first, num_layers=2, bidirectional=True, dtype=dtype)
        first = torch.randn(4, 3, 5, dtype=dtype)
        for x in (first, first.transpose(0, 1).contiguous().transpose(0, 1)):
            with torch.no_grad():
                found, expected = tensors(mine(x)), tensors(theirs(x))
            assert [a.stride() for a in found] == [b.stride() for b in expected]


@modules
def test_any_strides(name):
    """Inputs, states and parameters that are transposed, expanded, cut out of others, flipped."""
    theirs, mine = pair(name, 6, 9, dtype=torch.float64)
    shape = (4, 6) if name in CELLS else (3, 4, 6)
    for module in (theirs, mine):
        for parameter in module.parameters():
            if parameter.dim() == 2:
                parameter.data = parameter.data.T.contiguous().T
    given = [h.detach().transpose(0, -1).contiguous().transpose(0, -1) for h in tensors(states(mine, 4, torch.float64))]
    given = tuple(given) if len(given) == 2 else given[0]
    inputs = [
        torch.randn(*shape, dtype=torch.float64).transpose(0, -1).contiguous().transpose(0, -1),
        torch.randn(6, dtype=torch.float64).expand(*shape),
        torch.randn(*shape[:-1], 12, dtype=torch.float64)[..., ::2],
        torch.randn(*shape[:-1], 12, dtype=torch.float64)[..., 3:9],
        torch.randn(*shape, dtype=torch.complex128).conj().imag,  # with torch's negative bit
    ]
    for x in inputs:
        assert_close(_free(mine, x, given), _free(theirs, x, given), 1e-10)


def _free(module, x, given):
    """Outputs and the gradients of the parameters; the arguments as they lie in memory."""
    module.zero_grad()
    outputs = tensors(module(x, given))
    torch.autograd.backward(outputs, upstream(outputs))
    found = {str(k): o for k, o in enumerate(outputs)} | {name: p.grad for name, p in module.named_parameters()}
    for name, parameter in module.named_parameters():
        assert parameter.grad.shape == parameter.shape, name
    return found


# --- cells ---------------------------------------------------------------------------------------------------------


@dtypes
@cells
@pytest.mark.parametrize("bias", [True, False])
def test_cells(name, dtype, bias, calls):
    for more in [{"nonlinearity": "tanh"}, {"nonlinearity": "relu"}] if name == "RNNCell" else [{}]:
        for _, N, D, H in SIZES:
            theirs, mine = pair(name, D, H, bias=bias, dtype=dtype, **more)
            for arguments in [(values(N, D, dtype=dtype),), (values(N, D, dtype=dtype), states(mine, N, dtype))]:
                calls.clear()
                assert_equal_modules(theirs, mine, arguments, dtype)
                cell = name.removesuffix("Cell").lower()
                assert calls == [f"{cell}_step_forward", f"{cell}_step_backward"]
        for arguments in [(values(D, dtype=dtype),), (values(D, dtype=dtype), states(mine, (), dtype))]:
            assert_equal_modules(theirs, mine, arguments, dtype)


@cells
def test_cells_in_a_loop(name):
    """Gradients through many steps, as a user writes them."""
    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    found = []
    for module in (theirs, mine):
        torch.manual_seed(2)
        x, state = values(6, 3, 5), states(module, 3, torch.float64)
        given, outputs = tensors(state), []
        for t in range(6):
            state = module(x[t], state)
            outputs += tensors(state)[:1]
        module.zero_grad()
        torch.stack(outputs).sin().sum().backward()
        found.append({"x": x.grad, "out": outputs[-1]} | {str(k): h.grad for k, h in enumerate(given)})
        found[-1] |= {name: parameter.grad for name, parameter in module.named_parameters()}
    assert_close(*reversed(found), 1e-10)


# --- autograd ------------------------------------------------------------------------------------------------------


@modules
def test_gradcheck(name):
    """By torch's finite differences, in inputs, states and parameters; gradients of gradients too."""
    mine = getattr(ours, name)(3, 2, **({} if name in CELLS else {"bidirectional": True}), dtype=torch.float64)
    x = values(2, 3) if name in CELLS else values(3, 2, 3)
    given = tensors(states(mine, 2, torch.float64))
    names = [n for n, _ in mine.named_parameters()]

    def function(x, *rest):
        state = rest[: len(given)]
        parameters = dict(zip(names, rest[len(given) :], strict=True))
        return tuple(tensors(torch.func.functional_call(mine, parameters, (x, state if len(given) == 2 else state[0]))))

    inputs = (x, *given, *(p.detach().clone().requires_grad_() for p in mine.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@layers
def test_gradcheck_of_packed_sequences(name):
    mine = getattr(ours, name)(2, 2, bidirectional=True, dtype=torch.float64)
    batch_sizes, order = torch.tensor([3, 2, 1]), torch.tensor([2, 0, 1])

    def function(data, *state):
        packed, hidden = mine(PackedSequence(data, batch_sizes, order), state if len(state) == 2 else state[0])
        return packed.data, *tensors(hidden)

    inputs = (values(6, 2), *tensors(states(mine, 3, torch.float64)))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@modules
def test_gradients_of_gradients_are_torchs(name):
    """A penalty on the norm of the gradient; and states that are made from the input, so that it has two ways to the output."""
    theirs, mine = pair(name, 5, 5, dtype=torch.float64)
    found = []
    for module in (theirs, mine):
        torch.manual_seed(4)
        x = values(3, 5) if name in CELLS else values(4, 3, 5)
        h0 = x.sin() if name in CELLS else x[:1].sin()
        outputs = tensors(module(x, (h0, h0.cos()) if "LSTM" in name else h0))
        (dx,) = torch.autograd.grad((outputs[0] ** 2).sum(), x, create_graph=True)
        module.zero_grad()
        (dx.norm() - 1).square().backward()
        found.append({"dx": dx, "x": x.grad} | {n: p.grad for n, p in module.named_parameters()})
    assert_close(*reversed(found), 1e-10)


@modules
def test_batches_of_gradients(name):
    """Jacobians by many backward passes at once, in both of torch's ways; and Hessians."""
    theirs, mine = pair(name, 3, 2, dtype=torch.float64)
    x = torch.randn(2, 3, dtype=torch.float64) if name in CELLS else torch.randn(4, 2, 3, dtype=torch.float64)
    found = []
    for module in (theirs, mine):

        def function(x, module=module):
            return tensors(module(x))[-1]

        x.requires_grad_()
        y = function(x)
        every = torch.eye(y.numel(), dtype=torch.float64).reshape(-1, *y.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about slow rules for batches
            found.append(
                {
                    "vectorize": torch.autograd.functional.jacobian(function, x, vectorize=True),
                    "one by one": torch.autograd.functional.jacobian(function, x),
                    "vmap": torch.func.vmap(lambda g, y=y: torch.autograd.grad(y, x, g, retain_graph=True)[0])(every),
                    "hessian": torch.autograd.functional.hessian(lambda x, f=function: f(x).sin().sum(), x),
                }
            )
    assert_close(*reversed(found), 1e-10)


@modules
def test_only_the_gradients_that_are_needed(name, monkeypatch):
    mine = getattr(ours, name)(5, 9, dtype=torch.float64)
    cell, kind = name.removesuffix("Cell").lower(), "step_" * (name in CELLS)
    backward, needed = getattr(fastgate, f"{cell}_{kind}backward"), []

    def watched(*arguments, need):
        needed.append(list(need))
        gradients = backward(*arguments, need=need)
        assert [g is not None for g in gradients] == [n in need for n in gradients._fields]
        return gradients

    monkeypatch.setattr(fastgate, f"{cell}_{kind}backward", watched)
    x, given = values(3, 5) if name in CELLS else values(4, 3, 5), states(mine, 3, torch.float64)
    h, c = ("dh_prev", "dc_prev") if kind else ("dh0", "dc0")

    every = {"dx": x, h: tensors(given)[0], c: tensors(given)[-1]}
    every |= dict(zip(("dWx", "dWh", "db", "dbh"), mine.parameters(), strict=True))
    for names in [["dx"], [h], [c], ["dWx"], ["dWh"], ["db"], ["dbh"], ["dx", "dWh"], [h, "db"]]:
        if c in names and "LSTM" not in name:
            continue
        for tensor in every.values():
            tensor.requires_grad_(False)
        for n in names:
            every[n].requires_grad_(True)
        tensors(mine(x, given))[0].sum().backward()
        assert needed.pop() == names
        assert not needed
    x.requires_grad_(True)
    mine.requires_grad_(False)
    tensors(mine(x))[0].sum().backward()
    assert needed.pop() == ["dx"]
    x = x.detach()
    mine.requires_grad_(True)
    tensors(mine(x))[0].sum().backward()
    assert needed == [["dWx", "dWh", "db", "dbh"]]
    assert not any(o.requires_grad for o in tensors(mine.requires_grad_(False)(x)))


@modules
def test_nothing_is_kept_without_gradients(name, monkeypatch):
    cell, kind = name.removesuffix("Cell").lower(), "step_" * (name in CELLS)
    forward, asked = getattr(fastgate, f"{cell}_{kind}forward"), []

    def watched(*arguments, training, **options):
        asked.append(training)
        return forward(*arguments, training=training, **options)

    monkeypatch.setattr(fastgate, f"{cell}_{kind}forward", watched)
    mine = getattr(ours, name)(5, 9)
    x = torch.randn(3, 5) if name in CELLS else torch.randn(4, 3, 5)
    expected = tensors(mine(x))
    with torch.no_grad():
        found = tensors(mine(x.requires_grad_()))
    with torch.inference_mode():
        inferred = tensors(mine(x))
    frozen = tensors(mine.requires_grad_(False)(x.detach()))
    assert asked == [True, False, False, False]
    assert all(o.requires_grad for o in expected)
    for others in (found, inferred, frozen):
        assert not any(o.requires_grad for o in others)
        assert all(torch.equal(a, b) for a, b in zip(others, expected, strict=True))
    assert all(o.is_inference() for o in inferred[:1])


@modules
def test_gradients_of_some_outputs(name):
    """Upstream gradients that are missing are zeros."""
    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    x, given = values(3, 5) if name in CELLS else values(4, 3, 5), states(mine, 3, torch.float64)
    count = len(tensors(mine(x, given)))
    for wanted in (some for k in range(1, count + 1) for some in itertools.combinations(range(count), k)):
        found = []
        for module in (theirs, mine):
            outputs = tensors(module(x, given))
            inputs = [x, *tensors(given), *module.parameters()]
            gradients = torch.autograd.grad([(outputs[k] ** 2).sum() for k in wanted], inputs)
            found.append({str(k): g for k, g in enumerate(gradients)})
        assert_close(*reversed(found), 1e-10)


@modules
def test_backward_again(name):
    """retain_graph=True gives the same gradients again; without it a second time is torch's error."""
    mine = getattr(ours, name)(5, 9)
    x = values(3, 5, dtype=torch.float32) if name in CELLS else values(4, 3, 5, dtype=torch.float32)
    loss = tensors(mine(x))[0].sin().sum()
    gradients = []
    for keep in (True, False):
        x.grad = None
        loss.backward(retain_graph=keep)
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@modules
@pytest.mark.parametrize("what", ["x", "h0", "weight"])
def test_changes_between_forward_and_backward_are_noticed(name, what):
    """As by torch: what backward reads must not be written into before."""
    mine = getattr(ours, name)(5, 9)
    x = torch.randn(3, 5) if name in CELLS else torch.randn(4, 3, 5)
    given = tuple(h.detach() for h in tensors(states(mine, 3, torch.float32)))
    outputs = tensors(mine(x, given if len(given) == 2 else given[0]))
    with torch.no_grad():
        {"x": x, "h0": given[0], "weight": next(mine.parameters())}[what].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs[0].sum().backward()


@modules
def test_outputs_are_the_callers(name):
    """Nothing that backward reads lies in them: they may be written into."""
    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    x = values(3, 5) if name in CELLS else values(4, 3, 5)
    expected = torch.autograd.grad((tensors(theirs(x))[0] * 3).sum(), [x, *theirs.parameters()])
    outputs = tensors(mine(x))
    outputs[0].mul_(3)
    found = torch.autograd.grad(outputs[0].sum(), [x, *mine.parameters()])
    assert_close(dict(enumerate(found)), dict(enumerate(expected)), 1e-10)


@layers
def test_outputs_that_are_views_are_the_callers_too(name):
    """Transposed, squeezed, packed."""
    theirs, mine = pair(name, 5, 9, bidirectional=True, batch_first=True, dtype=torch.float64)
    packed = pack_padded_sequence(torch.randn(3, 4, 5, dtype=torch.float64), [4, 1, 3], True, enforce_sorted=False)
    for x in (values(4, 3, 5), values(4, 5), packed):
        found = []
        for module in (theirs, mine):
            outputs = [o for o in tensors(module(x)) if o.is_floating_point()]
            for output in outputs:
                output.mul_(3)
                output[0].add_(1)
            gradients = torch.autograd.grad([o.sin().sum() for o in outputs], module.parameters())
            found.append(dict(enumerate(gradients)) | {str(k): o for k, o in enumerate(outputs)})
        assert_close(*reversed(found), 1e-10)


class Kept:
    """A cache that can be watched."""

    def __init__(self, cache):
        self.cache = cache


@pytest.fixture
def caches(monkeypatch):
    """The caches of fastgate's forward calls that are alive."""
    found = weakref.WeakSet()
    for name, function in FUNCTIONS.items():

        def forward(*arguments, function=function, **options):
            *results, cache = function(*arguments, **options)
            if cache is not None:
                found.add(cache := Kept(cache))
            return *results, cache

        def backward(*arguments, function=function, **options):
            return function(*(a.cache if isinstance(a, Kept) else a for a in arguments), **options)

        monkeypatch.setattr(fastgate, name, forward if name.endswith("_forward") else backward)
    return found


@modules
def test_memory_goes_when_backward_is_done(name, caches):
    """At once, though the loss is kept; and with the graph where there is no backward."""
    mine = getattr(ours, name)(5, 9)
    x = torch.randn(3, 5) if name in CELLS else torch.randn(4, 3, 5)
    loss = tensors(mine(x))[0].sum()
    assert len(caches) == 1
    loss.backward()
    assert len(caches) == 0
    outputs = mine(x)
    assert len(caches) == 1
    del outputs
    assert len(caches) == 0


@modules
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(name, reentrant, caches):
    """Nothing is kept from forward to backward."""
    from torch.utils.checkpoint import checkpoint

    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    x = values(3, 5) if name in CELLS else values(4, 3, 5)
    found = []
    for module in (theirs, mine):
        x.grad = None
        module.zero_grad()
        loss = checkpoint(lambda x, m=module: tensors(m(x.tanh()))[0], x, use_reentrant=reentrant).sin().sum()
        assert len(caches) == 0
        loss.backward()
        found.append({"x": x.grad} | {n: p.grad for n, p in module.named_parameters()})
    assert_close(*reversed(found), 1e-10)


@modules
def test_hooks_on_saved_tensors(name, calls):
    """They may hand back copies; then forward runs again."""
    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    x = values(3, 5) if name in CELLS else values(4, 3, 5)
    found = []
    for module in (theirs, mine):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
            outputs = tensors(module(x))
        gradients = torch.autograd.grad(outputs, [x, *module.parameters()], upstream(outputs))
        found.append({str(k): g for k, g in enumerate(gradients)})
    assert_close(*reversed(found), 1e-10)
    assert [call.rpartition("_")[2] for call in calls] == ["forward", "forward", "backward"]


@modules
def test_a_learned_state(name):
    """A parameter (H,), expanded over the batch: its gradient is the sum."""
    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    x, start = values(3, 5) if name in CELLS else values(4, 3, 5), values(9)
    found = []
    for module in (theirs, mine):
        state = start.expand(3, 9) if name in CELLS else start.expand(1, 3, 9)
        outputs = tensors(module(x, (state, state.tanh()) if "LSTM" in name else state))
        found.append(dict(enumerate(torch.autograd.grad(outputs, [x, start], upstream(outputs)))))
    assert_close(*reversed(found), 1e-10)


def test_memory_is_shared(monkeypatch):
    """x, states and weights reach fastgate where torch holds them, gradients reach the parameters where fastgate wrote them."""
    seen, made = {}, {}
    forward, backward = fastgate.lstm_forward, fastgate.lstm_backward

    def watched(x, h0, c0, Wx, Wh, b, *, bh, **options):
        seen.update({id(a): a.__array_interface__["data"][0] for a in (x, h0, c0, Wx, Wh, b, bh)})
        return forward(x, h0, c0, Wx, Wh, b, bh=bh, **options)

    def watched_backward(*arguments, **options):
        found = backward(*arguments, **options)
        made.update({name: a.__array_interface__["data"][0] for name, a in found._asdict().items()})
        return found

    monkeypatch.setattr(fastgate, "lstm_forward", watched)
    monkeypatch.setattr(fastgate, "lstm_backward", watched_backward)
    mine = ours.LSTM(5, 9)
    x, given = values(4, 3, 5, dtype=torch.float32), states(mine, 3, torch.float32)
    h, _ = mine(x, given)
    assert list(seen.values()) == [t.data_ptr() for t in (x, *given, *mine.parameters())]
    h.sum().backward()
    assert [made[n] for n in ("dx", "dWx", "dWh", "db", "dbh")] == [t.grad.data_ptr() for t in (x, *mine.parameters())]


# --- where torch's own forward runs --------------------------------------------------------------------------------


def arguments_of(module, dtype=torch.float32):
    x = values(3, 5, dtype=dtype) if isinstance(module, nn.RNNCellBase) else values(4, 3, 5, dtype=dtype)
    return x, states(module, 3, dtype)


@modules
def test_other_dtypes(name, calls):
    theirs, mine = pair(name, 5, 9, dtype=torch.bfloat16)
    arguments = arguments_of(mine, torch.bfloat16)
    found, expected = everything(mine, arguments), everything(theirs, arguments)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not calls
    mine.to(torch.float32)
    mine(*arguments_of(mine))
    assert calls


@modules
def test_other_devices(name, calls):
    mine = getattr(ours, name)(5, 9, device="meta")
    outputs = tensors(mine(torch.empty(3, 5, device="meta") if name in CELLS else torch.empty(4, 3, 5, device="meta")))
    assert all(o.is_meta for o in outputs)
    assert not calls


def test_projections(calls, tmp_path):
    """Unbatched, packed, with states, by accelerate, through a file; second gradients and batches of them; wrong states."""
    options = {"proj_size": 4, "num_layers": 2, "bidirectional": True, "dtype": torch.float64}
    theirs, mine = pair("LSTM", 5, 9, **options)
    packed = pack_padded_sequence(torch.randn(3, 6, 5, dtype=torch.float64), [2, 6, 3], batch_first=True, enforce_sorted=False)
    packed.data.requires_grad_()
    for x, N in ((values(4, 5), ()), (values(4, 3, 5), 3), (packed, 3)):
        for arguments in ((x,), (x, states(mine, N, torch.float64))):
            calls.clear()
            assert_equal_modules(theirs, mine, arguments, torch.float64)
            assert len(calls) == 8
    fast = accelerate(copy.deepcopy(theirs))
    assert type(fast) is ours.LSTM
    torch.save(fast.state_dict(), tmp_path / "model.pt")
    theirs.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert set(mine.state_dict()) == set(theirs.state_dict()) >= {"weight_hr_l1_reverse"}
    x, state = values(4, 3, 5), states(mine, 3, torch.float64)
    for wrong in ((state[1], state[1]), (state[0], state[0]), (state[0][:, 1:], state[1])):
        assert outcome(mine, x, wrong) == outcome(theirs, x, wrong)
    one = ours.LSTM(2, 4, proj_size=3, bias=False, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, h, c: one(x, (h, c))[0], (values(3, 2, 2), values(1, 2, 3), values(1, 2, 4)))
    assert torch.autograd.gradgradcheck(lambda x: one(x)[0], (values(3, 2, 2),))


@modules
def test_autocast(name, calls):
    theirs, mine = pair(name, 5, 9)
    x, state = arguments_of(mine)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = tensors(mine(x, state)), tensors(theirs(x, state))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not calls


@modules
def test_functional_transforms(name, calls):
    """torch has no rule for batches of most of these modules, and says so."""
    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    x = torch.randn(2, 3, 5, dtype=torch.float64) if name in CELLS else torch.randn(2, 4, 3, 5, dtype=torch.float64)
    gradients, outcomes = [], []
    for module in (theirs, mine):

        def loss(parameters, x, module=module):
            return tensors(torch.func.functional_call(module, parameters, (x,)))[0].sin().sum()

        gradients.append(torch.func.grad(loss)(dict(module.named_parameters()), x[0]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about slow rules for batches
            outcomes.append(outcome(torch.func.vmap(lambda x, m=module: tensors(m(x))[0]), x))
    assert_close(*reversed(gradients), 1e-10)
    assert outcomes[0] == outcomes[1]
    assert not calls
    torch.func.functional_call(mine, dict(theirs.named_parameters()), (x[0],))
    assert calls


@modules
def test_forward_mode(name, calls):
    from torch.autograd import forward_ad

    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    x, tangent = (torch.randn(*((3, 5) if name in CELLS else (4, 3, 5)), dtype=torch.float64) for _ in range(2))
    found = []
    for module in (theirs, mine):
        with forward_ad.dual_level(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's: TorchScript, which it loads for this, is deprecated
            duals = [forward_ad.unpack_dual(o) for o in tensors(module(forward_ad.make_dual(x, tangent)))]
        found.append({f"{k} {part}": t.detach() for k, dual in enumerate(duals) for part, t in dual._asdict().items()})
    assert_close(*reversed(found), 1e-10)
    assert not calls


@modules
def test_dispatch_modes(name, calls):
    from torch.utils.flop_counter import FlopCounterMode

    theirs, mine = pair(name, 5, 9)
    x = arguments_of(mine)[0]
    counts = []
    for module in (theirs, mine):
        with FlopCounterMode(display=False) as counter:
            module(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
    assert not calls


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_tracing_scripting_exporting(name, calls):
    """torch's own forward is what is compiled; scripting leaves torch's own module behind it."""
    model = nn.Sequential(getattr(ours, name)(5, 9))
    x = arguments_of(model[0])[0].detach()
    expected = tensors(model(x))
    calls.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")  # torch's: TorchScript is deprecated; an exported layer has weights in a list
        traced, scripted = torch.jit.trace(model, x, check_trace=False), torch.jit.script(copy.deepcopy(model))
        exported = torch.export.export(model, (x,)).module()
    assert not calls
    assert not [warning for warning in warned if "fastgate" in warning.filename]
    for compiled in (traced, scripted, exported):
        for a, b in zip(tensors(compiled(x)), expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
    assert not calls
    assert type(model[0]) is getattr(ours, name)


@pytest.mark.parametrize("name", ["GRU", "LSTMCell"])
def test_compile(name):
    """The back end "eager" compiles nothing. torch breaks the graph at a recurrent layer, which then runs as ever."""
    mine = getattr(ours, name)(5, 9)
    x, state = arguments_of(mine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(mine, backend="eager")
        found = compiled(x, state)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(tensors(found), tensors(mine(x, state)), strict=True))
    torch.compiler.reset()


@layers
def test_batches_without_elements(name, calls):
    theirs, mine = pair(name, 5, 9)
    for shape in [(4, 0, 5), (0, 3, 5), (4, 3, 0)]:
        outcomes = [outcome(module, torch.randn(*shape)) for module in (theirs, mine)]
        assert outcomes[0] == outcomes[1]
    assert not calls


def outcome(module, *arguments):
    """The shapes of the results, or the error in words."""
    try:
        return [o.shape for o in tensors(module(*arguments))]
    except Exception as error:
        return type(error), re.sub(r"0x\w+", "", str(error))


@modules
def test_errors_are_torchs_own(name, calls):
    theirs, mine = pair(name, 5, 9)
    shape = (3, 5) if name in CELLS else (4, 3, 5)
    lead = () if name in CELLS else (1,)
    x, h = torch.randn(*shape), torch.randn(*lead, 3, 9)

    def given(h, c=None):
        return (h, h if c is None else c) if "LSTM" in name else h

    malformed = [
        (torch.randn(*shape[:-1], 6),),
        (torch.randn(2, *shape),),
        (torch.randn(2, 2, *shape),),
        (torch.randn(5, 5, 5, 5, 5),),
        (x.double(),),
        (x.long(),),
        (x.to(torch.complex64),),
        (x.numpy(),),
        (None,),
        (x, given(torch.randn(*lead, 3, 8))),
        (x, given(torch.randn(*lead, 2, 9))),
        (x, given(torch.randn(2, *lead, 3, 9))),
        (x, given(h, torch.randn(*lead, 3, 8))),
        (x, given(h.double())),
        (x, given(h, h.double())),
        (x, given(h.numpy())),
        (x, 3),
        (x, (h,)),
        (x, (h, h, h)),
        (x, torch.stack([h, h])),
        (x[0], given(h)),
        (x, given(h[0])),
        (x.to_sparse(),),
    ]
    if name in LAYERS:
        packed = pack_padded_sequence(x, [4, 2, 1])
        malformed += [(packed, given(h[0])), (packed, given(torch.randn(1, 2, 9))), (packed.to(torch.float64),)]
        malformed += [(PackedSequence(x, packed.batch_sizes),), (pack_padded_sequence(torch.randn(4, 3, 6), [4, 2, 1]),)]
    refused = 0
    for arguments in malformed:
        expected = outcome(theirs, *arguments)
        calls.clear()
        assert outcome(mine, *arguments) == expected, arguments
        if isinstance(expected, tuple):
            refused += 1
            assert not calls
    assert refused >= 19
    for module in (theirs, mine):
        setattr(module, next(iter(module._parameters)), None)
    assert isinstance(outcome(theirs, x), tuple)
    assert outcome(mine, x) == outcome(theirs, x)


def test_an_activation_that_torch_does_not_know():
    theirs, mine = pair("RNNCell", 5, 9)
    theirs.nonlinearity = mine.nonlinearity = "sigmoid"
    assert outcome(mine, torch.randn(3, 5)) == outcome(theirs, torch.randn(3, 5))
    assert outcome(mine, torch.randn(3, 5))[0] is RuntimeError


# --- modules among modules -----------------------------------------------------------------------------------------


@modules
def test_constructors_and_words_are_torchs(name):
    for options in [{}, {"bias": False}] + [{"num_layers": 2, "bidirectional": True, "dropout": 0.3}] * (name in LAYERS):
        torch.manual_seed(8)
        theirs = getattr(nn, name)(5, 9, **options)
        torch.manual_seed(8)
        mine = getattr(ours, name)(5, 9, **options)
        assert repr(mine) == repr(theirs)
        assert isinstance(mine, type(theirs))
        assert list(mine.state_dict()) == list(theirs.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    for wrong in [(0, 3), (3, 0), ("3", 3)][: 3 if name in LAYERS else 0]:
        with pytest.raises((ValueError, TypeError)) as expected:
            getattr(nn, name)(*wrong)
        with pytest.raises(expected.type, match=re.escape(str(expected.value))):
            getattr(ours, name)(*wrong)


@modules
def test_state_dicts_both_ways(name):
    theirs, mine = getattr(nn, name)(5, 9), getattr(ours, name)(5, 9)
    arguments = arguments_of(mine)
    theirs.load_state_dict(mine.state_dict())
    assert_equal_modules(theirs, mine, arguments, torch.float32)
    mine.load_state_dict(getattr(nn, name)(5, 9).state_dict())
    theirs.load_state_dict(mine.state_dict())
    assert_equal_modules(theirs, mine, arguments, torch.float32)
    with pytest.raises(RuntimeError, match="Missing key"):
        mine.load_state_dict({})


@modules
def test_copies(name):
    """deepcopy, pickle, torch.save: the same bits; parameters of their own."""
    mine = getattr(ours, name)(5, 9)
    x = arguments_of(mine)[0].detach()
    expected = tensors(mine(x))
    file = io.BytesIO()
    torch.save(mine, file)
    file.seek(0)
    for made in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), torch.load(file, weights_only=False)):
        assert type(made) is type(mine)
        assert all(torch.equal(a, b) for a, b in zip(tensors(made(x)), expected, strict=True))
        with torch.no_grad():
            next(made.parameters()).add_(1)
    assert all(torch.equal(a, b) for a, b in zip(tensors(mine(x)), expected, strict=True))


class Model(nn.Module):
    """All six, an embedding and a head, a module that occurs twice, and one inside a list."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.gru = nn.GRU(6, 9, num_layers=2, dropout=0.2, batch_first=True)
        self.more = nn.ModuleList([nn.LSTM(9, 5, bidirectional=True, batch_first=True), nn.RNN(10, 7, batch_first=True)])
        self.again = self.gru
        self.cells = nn.ModuleDict({"lstm": nn.LSTMCell(7, 4), "gru": nn.GRUCell(4, 4), "rnn": nn.RNNCell(4, 4)})
        self.head = nn.Linear(4, 11)
        self.to(dtype)

    def forward(self, y):
        x = self.gru(self.embedding(y))[0]
        for layer in self.more:
            x = layer(x)[0]
        h, _ = self.cells["lstm"](x[:, -1])
        return self.head(self.cells["rnn"](self.cells["gru"](h)))


def losses_of(model, steps=20, optimiser=torch.optim.Adam):
    torch.manual_seed(6)
    y, target = torch.randint(11, (4, 7)), torch.randint(11, (4,))
    optimiser, losses = optimiser(model.parameters(), 0.01), []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(y), target)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return np.array(losses)


@dtypes
def test_training_gives_the_same_losses(dtype, calls):
    """A model with all six, dropout included: 20 steps of Adam."""
    model = Model(dtype)
    faster = accelerate(copy.deepcopy(model))
    expected, found = losses_of(model), losses_of(faster)
    assert expected[-1] < 0.9 * expected[0]
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-10}[dtype] * expected.max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert len(calls) == 20 * 2 * (2 + 2 + 1 + 3)


def test_accelerate_in_the_middle_of_training():
    """The optimiser has the same Parameter objects, and its moments."""
    model = Model()
    expected = losses_of(copy.deepcopy(model), 6)
    torch.manual_seed(6)
    y, target = torch.randint(11, (4, 7)), torch.randint(11, (4,))
    optimiser, found = torch.optim.Adam(model.parameters(), 0.01), []
    for step in range(6):
        if step % 2:
            assert accelerate(model) is model
        else:
            assert restore(model) is model
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(y), target)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        found.append(loss.item())
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_accelerate_changes_classes_only():
    model = Model().eval()
    model.gru.train()
    seen = []
    model.gru.register_forward_hook(lambda module, arguments, output: seen.append(type(module)))
    parameters, before, words = list(model.parameters()), dict(model.named_modules()), repr(model)
    attributes = {name: set(vars(module)) for name, module in before.items()}
    assert accelerate(model) is model
    assert accelerate(model) is model
    after = dict(model.named_modules())
    assert all(a is b for a, b in zip(before.values(), after.values(), strict=True))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert {name: set(vars(module)) for name, module in after.items()} == attributes
    assert repr(model) == words
    assert model.again is model.gru
    assert (model.training, model.gru.training, model.more[0].training) == (False, True, False)
    kinds = [type(m).__module__ for m in after.values() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))]
    assert kinds == ["fastgate.compat.torch"] * 6
    model(torch.randint(11, (2, 3)))
    assert seen == [ours.GRU]
    restore(model)
    assert not any(type(m).__module__.startswith("fastgate") for m in model.modules())
    model(torch.randint(11, (2, 3)))
    assert seen == [ours.GRU, nn.GRU]


@modules
def test_accelerate_a_layer_itself(name, calls):
    module = getattr(nn, name)(5, 9)
    assert type(accelerate(module)) is getattr(ours, name)
    module(*arguments_of(module))
    assert calls
    assert type(restore(module)) is getattr(nn, name)


def test_what_is_not_accelerated():
    class Mine(nn.LSTM):
        pass

    class Faster(ours.GRU):
        pass

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrized = nn.GRU(3, 4)
    parametrize.register_parametrization(parametrized, "weight_hh_l0", Double())
    model = nn.Sequential(Mine(3, 4), Faster(3, 4), parametrized)
    kinds = [type(module) for module in model]
    with pytest.warns(UserWarning, match="is left to torch") as warned:
        accelerate(model)
    assert [type(module) for module in model] == kinds
    assert [str(w.message) for w in warned] == [
        "0: this Mine is left to torch, for it is a subclass, whose forward may be its own",
        "2: this ParametrizedGRU is left to torch, for it is parametrized; accelerate first, parametrize then",
    ]
    assert all(w.filename == __file__ for w in warned)
    restore(model)
    assert [type(module) for module in model] == kinds
    with pytest.warns(UserWarning, match="^model: this Mine is left"):
        accelerate(Mine(3, 4))


@pytest.mark.parametrize("function", [accelerate, restore])
@pytest.mark.parametrize("wrong", [None, 3, nn.LSTM, "model", [nn.LSTM(3, 4)]], ids=str)
def test_what_is_no_model(function, wrong):
    with pytest.raises(TypeError, match=r"^model: expected a torch.nn.Module, got \w+$"):
        function(wrong)


@modules
def test_parametrizations(name, calls):
    """Registered on ours, as on torch's; weights that are made anew before every call, too."""

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    weight = next(n for n, _ in mine.named_parameters() if "weight_hh" in n)
    for module in (theirs, mine):
        parametrize.register_parametrization(module, weight, Double())
    assert_equal_modules(theirs, mine, arguments_of(mine, torch.float64), torch.float64)
    assert calls
    theirs, mine = pair(name, 5, 9, dtype=torch.float64)
    calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: this form of it is deprecated
        for module in (theirs, mine):
            nn.utils.weight_norm(module, weight)
    assert_equal_modules(theirs, mine, arguments_of(mine, torch.float64), torch.float64)
    assert calls


@modules
def test_tied_weights(name):
    """One Parameter in two places: its gradient is the sum."""
    theirs, mine = pair(name, 5, 5, dtype=torch.float64)
    first, second = [n for n, _ in mine.named_parameters()][:2]
    for module in (theirs, mine):
        setattr(module, second, getattr(module, first))
    x = values(3, 5) if name in CELLS else values(4, 3, 5)
    assert_equal_modules(theirs, mine, (x,), torch.float64)


@layers
def test_flatten_parameters_does_no_harm(name):
    theirs, mine = pair(name, 5, 9, num_layers=2)
    mine.flatten_parameters()
    arguments = arguments_of(pair(name, 5, 9)[1])[:1]
    assert_equal_modules(theirs, mine, arguments, torch.float32)
    assert_equal_modules(theirs.double(), mine.double(), (values(4, 3, 5),), torch.float64)


def test_a_default_device_moves_nothing(calls):
    mine = ours.LSTM(5, 9)
    x = torch.randn(4, 3, 5)
    with torch.device("meta"):
        outputs = tensors(mine(x))
    assert not any(o.is_meta for o in outputs)
    assert calls == ["lstm_forward"]


def test_many_callers():
    """Threads that share a module, forward and backward."""
    from concurrent.futures import ThreadPoolExecutor

    mine = ours.GRU(5, 33, num_layers=2, dtype=torch.float64)
    inputs = [values(9, 4, 5) for _ in range(8)]

    def gradient(x):
        return [torch.autograd.grad(mine(x)[0].sin().sum(), [x, *mine.parameters()]) for _ in range(5)][-1]

    expected = [gradient(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(gradient, inputs), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


# --- torch's own samples -------------------------------------------------------------------------------------------


def infos():
    name = "torch.testing._internal.common_modules"
    internal = pytest.importorskip(name, reason="torch's samples need expecttest", exc_type=ImportError)
    return {info.module_cls.__name__: info for info in internal.module_db if info.module_cls.__name__ in LAYERS + CELLS}


@dtypes
@modules
@pytest.mark.parametrize("training", [True, False])
def test_torchs_samples(name, dtype, training):
    """The inputs with which torch tests these modules, and the references that it has for them."""
    info = infos()[name]
    seen = 0
    more = {"with_packed_sequence": True} if name in ("GRU", "RNN") else {}
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training, **more):
        built, given = sample.constructor_input, sample.forward_input
        theirs, mine = pair(name, *built.args, **built.kwargs, dtype=dtype)
        theirs.train(training), mine.train(training)
        torch.testing.assert_close(everything(mine, given.args), everything(theirs, given.args))  # with torch's tolerances
        outputs = mine(*given.args, **given.kwargs)
        if sample.reference_fn is not None and not isinstance(given.args[0], PackedSequence):
            for found, expected in zip(tensors(outputs), tensors(sample.reference_fn(mine, *given.args)), strict=True):
                torch.testing.assert_close(found, expected.reshape(found.shape))
        seen += 1
    assert seen >= 2


@dtypes
@modules
def test_torchs_samples_of_errors(name, dtype):
    info = infos()[name]
    seen = 0
    for sample in info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=False):
        built, given = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        with pytest.raises(sample.error_type, match=sample.error_regex):
            getattr(ours, name)(*built.args, **built.kwargs)(*given.args, **given.kwargs)
        seen += 1
    assert seen >= 4


def test_the_training_loop_that_is_timed():
    """bench/torch_training.py: the same losses, a line for each model in the table."""
    bench = pytest.importorskip("bench.torch_training", reason="bench/ is not beside tests/")
    setups = [bench.Setup(cell, 2, 5, 3, 6, 7) for cell in ("GRU", "LSTM")]
    threads = torch.get_num_threads(), fastgate.get_num_threads()
    try:
        rows = [row for n in (1, 2) for row in bench.run(setups, n, 0.01, "wall")]
    finally:
        torch.set_num_threads(threads[0])
        fastgate.set_num_threads(threads[1])
    assert all(row.difference < 1e-5 and row.losses[0] != row.losses[1] for row in rows)
    table = bench.table(rows)
    assert [line.count("|") for line in table.splitlines()[2:]] == [9] * 6
    assert "| nn.GRU, 2 layers, (5, 3, 6, 7) |" in table
    name, before, after = next(bench.swap_cases())
    assert name == "PyTorch, training of nn.GRU, (100, 8, 64, 128), float32"
    np.testing.assert_allclose(before(), after(), rtol=1e-6)


def test_importing_fastgate_imports_no_torch():
    code = "import sys, fastgate; assert not {'torch', 'fastgate.compat.torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torch_the_extra_is_named():
    code = "import sys; sys.modules['torch'] = None\nimport fastgate.compat.torch"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1
    assert "ImportError: fastgate.compat.torch needs PyTorch: pip install 'fastgate[torch]'" in found.stderr
