"""The reference against finite differences, scalar formulas, PyTorch where installed, and its own options."""

import itertools
import math
import warnings

import numpy as np
import pytest
from support import (
    BY_GATES,
    CELLS,
    EXACT,
    VARIANTS,
    digest,
    inside,
    permuted,
    random_call,
    reordered,
    upstream,
    values,
    variant_id,
    weights_of,
)

from fastgate import reference
from fastgate.reference import lstm_backward, lstm_forward

variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)


def results(cell, result, step):
    """The differentiable results by the name of their upstream gradient."""
    names = ("dh_next", "dc_next")[: 1 + cell.has_c] if step else ("dh", "dh_T", "dc_T")[: 2 + cell.has_c]
    return dict(zip(names, result[:-1], strict=True))


def run_backward(cell, cache, gradients, step=False, **options):
    backward = cell.function(reference, "step_backward" if step else "backward")
    return backward(cache=cache, **gradients, **options)


# --- gradients ---------------------------------------------------------------------------------------------------

CONFIGURATIONS = {
    "plain": {},
    "no_bias": {"b": False, "bh": False},
    "one_bias": {"bh": False},
    "other_bias": {"b": False},
    "ragged": {"lengths": [2, 0, 5]},
    "reverse": {"reverse": True},
    "ragged_reverse": {"lengths": [5, 3, 0], "reverse": True},
    "wide": {"D": 7, "H": 3},
    "N1": {"N": 1},
    "T1": {"T": 1},
    "N1_T1": {"N": 1, "T": 1},
    "T0": {"T": 0},
    "N0": {"N": 0},
    "D1_H1": {"D": 1, "H": 1},
    "shared_state": {"state": "(H,)"},
    "no_state": {"state": None},
    "order": {"order": True},
    "order_ragged_reverse": {"order": True, "lengths": [1, 5, 2], "reverse": True, "state": "(H,)"},
    "step": {"step": True},
    "step_N1": {"step": True, "N": 1},
    "step_N0": {"step": True, "N": 0},
    "step_no_bias": {"step": True, "b": False, "bh": False},
    "step_shared_state": {"step": True, "state": "(H,)"},
    "step_no_state": {"step": True, "state": None},
    "step_order": {"step": True, "order": True},
}


@pytest.mark.parametrize(("cell", "options"), EXACT, ids=map(variant_id, EXACT))
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_gradients_equal_finite_differences(cell, options, configuration):
    """Along a random direction of each argument alone and of all together: relative error <= 1e-7."""
    for attempt in itertools.count():
        seed = list(map(ord, cell.name + configuration)) + [attempt] * (attempt > 0)
        try:
            return check_gradients(cell, options, dict(CONFIGURATIONS[configuration]), np.random.default_rng(seed))
        except Kink:
            assert attempt < 200


class Kink(Exception):
    """A bound that clips lies between the two ends of a difference."""


def check_gradients(cell, options, settings, rng):
    state, order, step = (
        settings.pop("state", "(N, H)"),
        settings.pop("order", False),
        settings.get("step", False),
    )
    keywords = dict(options) | {k: settings.pop(k) for k in ("lengths", "reverse") if k in settings}
    if order and cell.G > 1:
        keywords["gate_order"] = cell.gates[1:] + cell.gates[0]
    call = random_call(cell, rng, **settings)
    for name, size in zip(cell.states(step), cell.sizes(call), strict=True):
        if state == "(H,)":
            call[name] = values(rng, (size,))
        elif state is None:
            del call[name]
    fixed = {} if state else dict.fromkeys(cell.states(step))
    gradients = upstream(cell, rng, call, step)
    forward = cell.function(reference, "step_forward" if step else "forward")

    def loss(arguments):
        result = forward(**arguments, **fixed, **keywords)
        if not all(np.array_equal(*pair) for pair in zip(inside(result.cache), inside(cache), strict=True)):
            raise Kink
        found = results(cell, result, step)
        return sum(float((gradients[name] * found[name]).sum()) for name in gradients)

    cache = forward(**call, **fixed, **keywords).cache
    found = run_backward(cell, cache, gradients, step)._asdict()
    assert [name for name in found if name[1:] in call] == ["d" + name for name in call]
    for name, array in call.items():
        assert found["d" + name].shape == array.shape

    def check(direction):
        size = math.sqrt(sum(float((found["d" + n] ** 2).sum()) for n in direction))

        def difference(e):
            plus, minus = ({n: a + s * direction.get(n, 0) for n, a in call.items()} for s in (e, -e))
            return (loss(plus) - loss(minus)) / (2 * e)

        e = 2e-4
        numeric = (4 * difference(e / 2) - difference(e)) / 3
        exact = sum(float((found["d" + n] * v).sum()) for n, v in direction.items())
        assert abs(exact - numeric) <= 1e-7 * max(abs(exact), size)

    directions = {name: values(rng, array.shape) for name, array in call.items()}
    check(directions)
    for name in directions:
        check({name: directions[name]})


@variants
def test_none_upstream_is_zero(cell, options):
    rng = np.random.default_rng(1)
    for step in (False, True):
        call = random_call(cell, rng, step=step)
        given = upstream(cell, rng, call, step)
        cache = cell.function(reference, "step_forward" if step else "forward")(**call, **dict(options)).cache
        for missing in itertools.product((False, True), repeat=len(given)):
            some = {n: None if m else g for (n, g), m in zip(given.items(), missing, strict=True)}
            zeros = {n: np.zeros_like(g) if m else g for (n, g), m in zip(given.items(), missing, strict=True)}
            one, two = run_backward(cell, cache, some, step), run_backward(cell, cache, zeros, step)
            for a, b in zip(one, two, strict=True):
                np.testing.assert_array_equal(a, b)


# --- values ------------------------------------------------------------------------------------------------------


def sigma(a):
    return 1 / (1 + math.exp(-a))


def scalar_step(name, x, h, c, Wx, Wh, b, bh, option, p=None, Wr=None):
    """One row of one step in Python floats, element by element."""
    H = len(h if c is None else c)
    option = dict(option)

    def ax(k):
        return sum(x[d] * Wx[d, k] for d in range(len(x))) + b[k]

    def ah(k, state=h):
        return sum(state[j] * Wh[j, k] for j in range(len(state))) + bh[k]

    if name == "rnn":
        phi = {"tanh": math.tanh, "relu": lambda a: max(a, 0.0), "sigmoid": sigma, "identity": float}[option["activation"]]
        return [phi(ax(j) + ah(j)) for j in range(H)], None
    if name == "lstm":
        p = np.zeros(3 * H) if p is None else p
        largest_a, largest_c = (option.get(clip, math.inf) for clip in ("preact_clip", "cell_clip"))

        def a(gate, j, seen=0.0):
            k = "ifgo".index(gate) * H + j
            return max(-largest_a, min(largest_a, ax(k) + ah(k) + seen))

        phi = sigma if option.get("candidate") == "sigmoid" else math.tanh
        c_next, h_next = [], []
        for j in range(H):
            f = sigma(a("f", j, p[H + j] * c[j]))
            i = 1 - f if option.get("coupled") else sigma(a("i", j, p[j] * c[j]))
            c_next.append(max(-largest_c, min(largest_c, f * c[j] + i * phi(a("g", j)))))
            h_next.append(sigma(a("o", j, p[2 * H + j] * c_next[j])) * math.tanh(c_next[j]))
        if Wr is not None:
            h_next = [sum(h_next[j] * Wr[j, k] for j in range(H)) for k in range(Wr.shape[1])]
        return h_next, c_next
    r = [sigma(ax(j) + ah(j)) for j in range(H)]
    z = [sigma(ax(H + j) + ah(H + j)) for j in range(H)]
    phi = sigma if option.get("candidate") == "sigmoid" else math.tanh
    if option["reset"] == "after":
        n = [phi(ax(2 * H + j) + r[j] * ah(2 * H + j)) for j in range(H)]
    else:
        q = [r[j] * h[j] for j in range(H)]
        n = [phi(ax(2 * H + j) + ah(2 * H + j, q)) for j in range(H)]
    if option.get("update") == "new":
        return [z[j] * n[j] + (1 - z[j]) * h[j] for j in range(H)], None
    return [(1 - z[j]) * n[j] + z[j] * h[j] for j in range(H)], None


@variants
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2e-6), (np.float64, 1e-14), (np.longdouble, 1e-14)])
def test_step_equals_the_formula(cell, options, dtype, bound):
    if cell.name not in ("rnn", "lstm", "gru"):
        pytest.skip("no scalar formula here")
    rng = np.random.default_rng(2)
    call = random_call(cell, rng, step=True, dtype=dtype)
    result = cell.function(reference, "step_forward")(**call, **dict(options))
    for row in range(3):
        states = [call[name][row] for name in cell.states(step=True)] + [None]
        weights = [call[n] for n in ("Wx", "Wh", "b", "bh")]
        h, c = scalar_step(cell.name, call["x"][row], *states[:2], *weights, options, call.get("peephole"), call.get("Wr"))
        np.testing.assert_allclose(result.h_next[row], np.array(h, dtype), rtol=0, atol=bound)
        if cell.has_c:
            np.testing.assert_allclose(result.c_next[row], np.array(c, dtype), rtol=0, atol=bound)
    assert all(a.dtype == dtype for a in result[:-1])


@variants
def test_sequence_equals_steps(cell, options):
    """Forward, and backward summed over the steps, each row on its own, with lengths and direction."""
    rng = np.random.default_rng(3)
    N, T = 3, 5
    call = random_call(cell, rng, N=N, T=T)
    gradients = upstream(cell, rng, call)
    for lengths, reverse in itertools.product(([5, 5, 5], [2, 0, 5], [0, 4, 1]), (False, True)):
        result = cell.function(reference, "forward")(**call, lengths=lengths, reverse=reverse, **dict(options))
        found = run_backward(cell, result.cache, gradients)
        weights = weights_of(call)
        total = {"d" + n: 0 for n in weights}
        for row in range(N):
            states = [call[name][row : row + 1] for name in cell.states()]
            times = range(lengths[row])[::-1] if reverse else range(lengths[row])
            caches = []
            for t in times:
                *states, cache = cell.function(reference, "step_forward")(
                    call["x"][row : row + 1, t], *states, **weights, **dict(options)
                )
                np.testing.assert_allclose(result.h[row, t], states[0][0], rtol=1e-13, atol=1e-14)
                caches.append(cache)
            for name, state in zip(("h_T", "c_T"), states):  # noqa: B905
                np.testing.assert_allclose(getattr(result, name)[row], state[0], rtol=1e-13, atol=1e-14)
            assert not result.h[row, lengths[row] :].any()

            d = [gradients[name][row : row + 1] for name in ("dh_T", "dc_T")[: len(states)]]
            for t, cache in zip(list(times)[::-1], caches[::-1], strict=True):
                d[0] = d[0] + gradients["dh"][row : row + 1, t]
                step = cell.function(reference, "step_backward")(*d, cache)
                np.testing.assert_allclose(found.dx[row, t], step.dx[0], rtol=1e-12, atol=1e-14)
                d = list(step[1 : 1 + len(states)])
                for name in total:
                    total[name] = total[name] + getattr(step, name)
            assert not found.dx[row, lengths[row] :].any()
            for name, state in zip(("dh0", "dc0"), d):  # noqa: B905
                np.testing.assert_allclose(getattr(found, name)[row], state[0], rtol=1e-12, atol=1e-14)
        for name in total:
            np.testing.assert_allclose(getattr(found, name), total[name], rtol=1e-12, atol=1e-13)


@cells
def test_gate_orders(cell):
    """Weights given and gradients returned in any order of the gates."""
    rng = np.random.default_rng(4)
    call = random_call(cell, rng)
    gradients = upstream(cell, rng, call)
    forward = cell.function(reference, "forward")
    plain = forward(**call)
    plain_gradients = run_backward(cell, plain.cache, gradients)
    for order in map("".join, itertools.permutations(cell.gates) if cell.G > 1 else ()):
        moved = call | reordered(cell, call, order)
        result = forward(**moved, gate_order=order)
        found = run_backward(cell, result.cache, gradients)
        np.testing.assert_array_equal(result.h, plain.h)
        for name, gradient in plain_gradients._asdict().items():
            expected = permuted(gradient, cell.gates, order) if name[1:] in BY_GATES else gradient
            np.testing.assert_array_equal(getattr(found, name), expected)


@variants
def test_long_double_agrees(cell, options):
    rng = np.random.default_rng(5)
    call = random_call(cell, rng)
    gradients = upstream(cell, rng, call)
    wide = {n: a.astype(np.longdouble) for n, a in call.items()}
    one, two = (cell.function(reference, "forward")(**a, **dict(options)) for a in (call, wide))
    for a, b in zip(one[:-1], two[:-1], strict=True):
        assert b.dtype == np.longdouble
        np.testing.assert_allclose(a, b.astype(np.float64), rtol=1e-13, atol=1e-15)
    one = run_backward(cell, one.cache, gradients)
    two = run_backward(cell, two.cache, {n: g.astype(np.longdouble) for n, g in gradients.items()})
    for a, b in zip(one, two, strict=True):
        assert b.dtype == np.longdouble
        np.testing.assert_allclose(a, b.astype(np.float64), rtol=1e-12, atol=1e-14)


@variants
@pytest.mark.filterwarnings("error")
def test_large_values_stay_finite(cell, options):
    rng = np.random.default_rng(6)
    for dtype in (np.float32, np.float64):
        call = random_call(cell, rng, dtype=dtype)
        call["x"] *= 1000
        result = cell.function(reference, "forward")(**call, **dict(options))
        found = run_backward(cell, result.cache, upstream(cell, rng, call))
        assert all(np.isfinite(a).all() for a in (*result[:-1], *found))


# --- options -----------------------------------------------------------------------------------------------------


@variants
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_influences_nothing(cell, options, reverse):
    rng = np.random.default_rng(7)
    call, lengths = random_call(cell, rng), [2, 0, 5]
    gradients = upstream(cell, rng, call)
    keywords = dict(options) | {"lengths": lengths, "reverse": reverse}
    padded, noisy = call | {"x": call["x"].copy()}, gradients | {"dh": gradients["dh"].copy()}
    for row, length in enumerate(lengths):
        padded["x"][row, length:] = np.nan
        noisy["dh"][row, length:] = np.nan
    one, two = (cell.function(reference, "forward")(**a, **keywords) for a in (call, padded))
    for a, b in zip(one[:-1], two[:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(run_backward(cell, one.cache, gradients), run_backward(cell, two.cache, noisy), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.h_T[1], call["h0"][1])


@cells
def test_an_empty_batch_of_any_length(cell):
    call = random_call(cell, np.random.default_rng(20), N=0, T=0)
    call["x"] = np.zeros((0, 2**40, 4))
    result = cell.function(reference, "forward")(**call)
    found = run_backward(cell, result.cache, {"dh": result.h})
    assert result.h.shape == (0, 2**40, 6)
    assert found.dx.shape == call["x"].shape
    assert not found.dWx.any()


@variants
def test_nothing_kept_without_training(cell, options):
    rng = np.random.default_rng(8)
    call = random_call(cell, rng)
    forward = cell.function(reference, "forward")
    full = forward(**call, **dict(options))
    short = forward(**call, **dict(options), training=False, return_sequences=False)
    assert short.cache is None
    assert short.h is None
    for name in ("h_T", "c_T")[: 1 + cell.has_c]:
        np.testing.assert_array_equal(getattr(full, name), getattr(short, name))
    last = forward(**call, **dict(options), return_sequences=False)
    gradients = upstream(cell, rng, call) | {"dh": None}
    for a, b in zip(run_backward(cell, full.cache, gradients), run_backward(cell, last.cache, gradients), strict=True):
        np.testing.assert_array_equal(a, b)
    step = random_call(cell, rng, step=True)
    assert cell.function(reference, "step_forward")(**step, training=False).cache is None


@cells
def test_need(cell):
    rng = np.random.default_rng(9)
    for step in (False, True):
        call = random_call(cell, rng, step=step)
        gradients = upstream(cell, rng, call, step)
        cache = cell.function(reference, "step_forward" if step else "forward")(**call).cache
        full = run_backward(cell, cache, gradients, step)
        for name in full._fields:
            some = run_backward(cell, cache, gradients, step, need=iter([name, "dx"]))
            for field in full._fields:
                if field in (name, "dx"):
                    np.testing.assert_array_equal(getattr(some, field), getattr(full, field))
                else:
                    assert getattr(some, field) is None
        assert all(g is None for g in run_backward(cell, cache, gradients, step, need=()))


@cells
def test_out(cell):
    """Results land in the arrays given, strided ones too; overlap acts as if the inputs had been copied."""
    rng = np.random.default_rng(10)
    N, T, D, H = 3, 5, 6, 6
    for step in (False, True):
        call = random_call(cell, rng, N=N, T=T, D=D, H=H, step=step)
        gradients = upstream(cell, rng, call, step)
        forward = cell.function(reference, "step_forward" if step else "forward")
        plain = forward(**call)
        expected = run_backward(cell, plain.cache, gradients, step)
        wide = np.full((*call["x"].shape[:-1], 2 * H), np.nan)
        assert forward(**call, out=wide[..., ::2])[0].base is wide
        np.testing.assert_array_equal(wide[..., ::2], plain[0])
        assert np.isnan(wide[..., 1::2]).all()

        copies = {name: a.copy() for name, a in call.items()}
        own = dict(zip(plain._fields[-1 - len(cell.states()) : -1], cell.states(step), strict=True))
        result = forward(
            **copies,
            out={plain._fields[0]: copies["x"]} | {n: copies[s] for n, s in own.items() if n != "h_next"},
        )
        for name in plain._fields[:-1]:
            np.testing.assert_array_equal(getattr(result, name), getattr(plain, name))
        assert result[0] is copies["x"]
        for a, b in zip(run_backward(cell, result.cache, gradients, step), expected, strict=True):
            np.testing.assert_array_equal(a, b)

        first = next(iter(gradients))
        given = {name: g.copy() for name, g in gradients.items()}
        found = run_backward(cell, plain.cache, given, step, out={"dx": given[first], "dWx": (w := call["Wx"].T.copy().T)})
        assert found.dx is given[first]
        assert found.dWx is w
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@cells
def test_memory_orders(cell):
    """Any layout gives the same values; h, dx follow x, and gradients of weights follow their weight."""
    rng = np.random.default_rng(11)
    call = random_call(cell, rng)
    gradients = upstream(cell, rng, call)
    forward = cell.function(reference, "forward")
    plain = forward(**call)
    expected = run_backward(cell, plain.cache, gradients)

    def misaligned(a):
        raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        raw[...] = a
        return raw

    layouts = {
        "time_major": lambda a: a.swapaxes(0, 1).copy().swapaxes(0, 1) if a.ndim > 1 else a,
        "fortran": np.asfortranarray,
        "spread": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        "backwards": lambda a: a[::-1].copy()[::-1],
        "mirrored": lambda a: a[..., ::-1].copy()[..., ::-1],
        "misaligned": misaligned,
        "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
        "read_only": lambda a: np.frombuffer(a.tobytes()).reshape(a.shape),
        "list": lambda a: a.tolist(),
    }
    for name, layout in layouts.items():
        laid = {n: layout(a) for n, a in call.items()}
        before = digest(laid)
        result = forward(**laid)
        found = run_backward(cell, result.cache, {n: layout(g) for n, g in gradients.items()})
        for a, b in zip((*result[:-1], *found), (*plain[:-1], *expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        assert digest(laid) == before
        if name in ("time_major", "fortran"):
            assert found.dWx.flags.f_contiguous
            assert found.dWh.flags.f_contiguous
        if name == "time_major":
            for a in (result.h, found.dx):
                assert a.swapaxes(0, 1).flags.c_contiguous
    broadcast = call | {s: np.broadcast_to(call[s][0], call[s].shape) for s in cell.states()}
    np.testing.assert_array_equal(forward(**broadcast).h, forward(**{n: a.copy() for n, a in broadcast.items()}).h)


@cells
def test_the_cache_is_the_callers_no_more(cell):
    """Results and lengths may be written into between forward and backward, backward may be called again."""
    rng = np.random.default_rng(12)
    for step in (False, True):
        call = random_call(cell, rng, step=step)
        gradients = upstream(cell, rng, call, step)
        keywords = {} if step else {"lengths": np.array([5, 2, 0])}
        result = cell.function(reference, "step_forward" if step else "forward")(**call, **keywords)
        expected = run_backward(cell, result.cache, gradients, step)
        for array in (*result[:-1], *keywords.values()):
            array[...] = 99
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            call["x"].shape = (-1,)
        before = digest(call, gradients)
        for a, b in zip(run_backward(cell, result.cache, gradients, step), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        assert digest(call, gradients) == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.beside
def test_torch_agrees(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(13)
    N, T, D, H = 3, 7, 4, 6
    bound = {"rtol": 1e-12, "atol": 1e-13} if dtype == np.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for cell in CELLS:
        if cell.name not in ("rnn", "lstm", "gru"):
            continue
        module = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell.name](D, H, batch_first=True)
        module = module.to(torch.float64 if dtype == np.float64 else torch.float32)
        call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype)
        gradients = upstream(cell, rng, call)
        result = cell.function(reference, "forward")(**call)
        found = run_backward(cell, result.cache, gradients)

        parameters = dict(zip(("Wx", "Wh", "b", "bh"), module.parameters(), strict=True))
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.tensor(call[name].T))
        x = torch.tensor(call["x"], requires_grad=True)
        states = [torch.tensor(call[s][None], requires_grad=True) for s in cell.states()]
        h, last = module(x, tuple(states) if cell.has_c else states[0])
        last = last if cell.has_c else (last,)
        tensors = [torch.tensor(g) for g in gradients.values()]
        torch.autograd.backward([h, *(s[0] for s in last)], tensors)
        np.testing.assert_allclose(result.h, h.detach().numpy(), **bound)
        np.testing.assert_allclose(found.dx, x.grad.numpy(), **bound)
        for name, state in zip(("dh0", "dc0"), states):  # noqa: B905
            np.testing.assert_allclose(getattr(found, name), state.grad[0].numpy(), **bound)
        for name, parameter in parameters.items():
            np.testing.assert_allclose(getattr(found, "d" + name), parameter.grad.numpy().T, **bound)


def test_results_unpack_as_written():
    rng = np.random.default_rng(14)
    lstm = next(cell for cell in CELLS if cell.name == "lstm")
    call = random_call(lstm, rng, bh=False)
    h, h_T, c_T, cache = lstm_forward(*call.values())
    dx, dh0, dc0, dWx, dWh, db = lstm_backward(np.ones_like(h), cache)
    assert dx.shape == call["x"].shape
    assert db.shape == call["b"].shape
    assert dc0.shape == c_T.shape == h_T.shape
    assert dWx.shape == call["Wx"].shape
    assert dWh.shape == call["Wh"].shape
    assert dh0.shape == call["h0"].shape


# --- clipping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.5, 1, 2, 3, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 1e20, 1e-30])
def test_clip_grad_norm(p, dtype, scale):
    rng = np.random.default_rng(15)
    grads = {"a": values(rng, (3, 4), dtype, scale), "b": values(rng, (5,), np.float64, scale), "none": None}
    flat = np.concatenate([g.ravel().astype(np.longdouble) for g in grads.values() if g is not None])
    size = np.max(np.abs(flat)) if p == np.inf else np.sum(np.abs(flat) ** np.longdouble(p)) ** (1 / np.longdouble(p))
    original = {n: None if g is None else g.copy() for n, g in grads.items()}
    assert reference.clip_grad_norm(grads, float(size) * 1.01, p) == pytest.approx(float(size), rel=1e-14)
    assert digest(grads) == digest(original)
    assert reference.clip_grad_norm(grads, float(size) / 3, p) == pytest.approx(float(size), rel=1e-14)
    for name in ("a", "b"):
        np.testing.assert_allclose(grads[name], original[name] / 3, rtol=1e-6 if name == "a" else 1e-13)
    assert reference.clip_grad_norm(grads, 1, p) == pytest.approx(float(size) / 3, rel=1e-6)


def test_clip_leaves_a_nonfinite_norm_alone():
    for bad in (np.nan, np.inf):
        grads = [np.array([1.0, bad]), np.array([2.0])]
        before = digest(grads)
        norm = reference.clip_grad_norm(grads, 1.0)
        assert not np.isfinite(norm)
        assert digest(grads) == before
        with pytest.raises(ValueError, match="grads: the norm is"):
            reference.clip_grad_norm(grads, 1.0, error_if_nonfinite=True)
        assert digest(grads) == before
        norms = reference.clip_norm_each(grads, 1.0)
        assert not np.isfinite(norms[0])
        assert norms[1] == 2
        np.testing.assert_array_equal(grads[0], [1.0, bad])
        np.testing.assert_allclose(grads[1], [1.0])


def test_clip_of_a_huge_float32_norm():
    grads = [np.full(100, 3e38, np.float32), np.full(2, 1e-30, np.float32)]
    assert reference.clip_grad_norm(grads, 1e-12) == pytest.approx(3e39, rel=1e-6)
    np.testing.assert_allclose(grads[0], 1e-13, rtol=1e-6)
    assert reference.clip_grad_norm([np.zeros(3)], 0) == 0 == reference.clip_grad_norm([], 1)
    grads = [np.array([3.0, 4.0])]
    assert reference.clip_grad_norm(grads, 0) == 5
    assert not grads[0].any()


def test_clip_grad_value():
    rng = np.random.default_rng(16)
    grads = {"a": values(rng, (3, 4), np.float32), "b": np.array([np.inf, -np.inf, np.nan, -0.0, 0.25])}
    original = {n: g.copy() for n, g in grads.items()}
    grads["none"] = None
    assert reference.clip_grad_value(grads, 0.5) is None
    del grads["none"]
    for name, g in grads.items():
        np.testing.assert_array_equal(g, np.sign(original[name]) * np.minimum(np.abs(original[name]), 0.5))
    assert np.signbit(grads["b"][3])
    grads = [np.array([np.inf, 1e38], np.float32)]
    reference.clip_grad_value(grads, 1e39)
    np.testing.assert_array_equal(grads[0], np.array([np.inf, 1e38], np.float32))


def test_clip_norm_each():
    rng = np.random.default_rng(17)
    arrays = [values(rng, (3, 4)), values(rng, (7,), np.float32), None, np.zeros((0, 2))]
    original = [None if g is None else g.copy() for g in arrays]
    limit = 1.5
    norms = reference.clip_norm_each(arrays, limit)
    assert norms[2:] == [0, 0]
    for g, o, norm in zip(arrays[:2], original[:2], norms[:2], strict=True):
        assert norm == pytest.approx(np.linalg.norm(o.astype(float)), rel=1e-14)
        np.testing.assert_allclose(g, o * min(1, limit / norm), rtol=1e-6)
    keyed = reference.clip_norm_each({"a": original[0], "b": original[1]}, limit)
    assert keyed == {"a": norms[0], "b": norms[1]}


# --- loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("masked", [None, "bool", "weights"])
@pytest.mark.parametrize("ignore_index", [None, 2, -100])
def test_softmax_cross_entropy(reduction, masked, ignore_index):
    rng = np.random.default_rng(18)
    o, y = values(rng, (4, 3, 5), scale=3), rng.integers(0, 5, (4, 3))
    y[0] = [2, 1, 2]
    if ignore_index == -100:
        y[1, 1] = y[3, 0] = -100
    mask = {None: None, "bool": rng.random((4, 3)) < 0.6, "weights": rng.random((4, 3))}[masked]
    w = np.ones((4, 3)) if mask is None else mask.astype(float)
    w = w * (y != ignore_index)
    if reduction == "mean":
        w = w / w.sum()
    p = np.exp(o) / np.exp(o).sum(axis=-1, keepdims=True)
    losses = -w * np.log(np.take_along_axis(p, y[..., None] % 5, axis=-1)[..., 0])
    loss, do = reference.softmax_cross_entropy(o, y, mask, ignore_index, reduction=reduction)
    np.testing.assert_allclose(loss, losses if reduction == "none" else losses.sum(), rtol=1e-12, atol=1e-14)

    direction, e = values(rng, o.shape), 2e-4

    def total(o):
        return np.sum(reference.softmax_cross_entropy(o, y, mask, ignore_index, reduction=reduction)[0])

    def difference(e):
        return (total(o + e * direction) - total(o - e * direction)) / (2 * e)

    numeric = (4 * difference(e / 2) - difference(e)) / 3
    assert np.sum(do * direction) == pytest.approx(numeric, rel=1e-7)


def test_softmax_cross_entropy_skips_what_does_not_count():
    rng = np.random.default_rng(19)
    o, y = values(rng, (4, 5), np.float32), np.array([1, 99, -3, 4])
    o[1:3] = np.nan
    mask = np.array([True, False, False, True])
    loss, do = reference.softmax_cross_entropy(o, y, mask)
    two, dtwo = reference.softmax_cross_entropy(o[::3], y[::3].tolist())
    assert loss == two
    assert do.dtype == np.float32
    np.testing.assert_array_equal(do[::3], dtwo)
    assert not do[1:3].any()
    loss, do = reference.softmax_cross_entropy(o, y, np.zeros(4, bool), reduction="mean")
    assert loss == 0
    assert not do.any()
    loss, do = reference.softmax_cross_entropy(np.zeros((0, 5)), [])
    assert loss == 0
    assert do.shape == (0, 5)
    big, do = reference.softmax_cross_entropy(np.array([1e30, -1e30, 0.0]), 0)
    assert big == 0
    assert not do.any()
