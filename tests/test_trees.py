"""TreeRNN and TreeLSTM against the recursive definition, and that against finite differences; the same bits; Trees.

Run as a program, it prints hashes of results at the instruction-set level in use.
"""

import copy
import itertools
import os
import pickle
import sys

import numpy as np
import pytest
from levels import FMA_LEVELS, LEVELS, output_at
from support import bits, digest, values

import fastgate
from bench import trees as bench
from fastgate import _kernels
from fastgate.layers import TreeLSTM, TreeRNN, Trees, load
from fastgate.reference import tree as reference

KINDS = (TreeRNN, TreeLSTM)
ARITIES = (1, 2, 3, None)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
arities = pytest.mark.parametrize("arity", ARITIES, ids=str)


def forest(M, K, rng):
    """(M, K) children of random trees in random order, with holes among the positions."""
    children, free = np.full((M, K), -1), []
    for n in rng.permutation(M):
        for position in rng.permutation(K)[: rng.integers(K + 1)]:
            if free and rng.random() < 0.9:
                children[n, position] = free.pop(rng.integers(len(free)))
        free.append(n)
    return children


def star(M):
    return np.concatenate([np.arange(1, M)[None], np.full((M - 1, M - 1), -1)])


def chain(M):
    return np.arange(-1, M - 1)[:, None]


def make(kind, D=4, H=6, *, arity=2, dtype=np.float64, seed=0, **options):
    layer = kind(D, H, arity=arity, dtype=dtype, rng=seed, **options)
    layer.parameters[...] = values(np.random.default_rng(seed), layer.parameters.shape, dtype, 1 / np.sqrt(H))
    return layer


def arrays_of(layer, M, rng, dtype=None):
    """x and upstream gradients, {"x": …, "dh": …, "dc": …}."""
    names = ("dh", "dc")[: 1 + isinstance(layer, TreeLSTM)]
    found = {"x": values(rng, (M, layer.input_size), dtype or layer.dtype)}
    return found | {name: values(rng, (M, layer.hidden_size), dtype or layer.dtype) for name in names}


def run(layer, given, trees, **keywords):
    """All results by name."""
    found = layer.forward(given["x"], trees)
    upstream = {name: given[name] for name in ("dh", "dc") if name in given}
    result = dict(zip(found._fields[:-1], found[:-1], strict=True))
    result["dx"] = layer.backward(cache=found.cache, **upstream, **keywords).dx
    return result | {f"d{name}": a.copy() for name, a in layer.grads.items()}


def by_reference(layer, given, children, dtype=None):
    """The same by the recursion, in any dtype."""
    given = {name: a.astype(dtype or a.dtype) for name, a in given.items()}
    W = {name: a.astype(dtype or a.dtype) for name, a in layer.weights.items()}
    if isinstance(layer, TreeLSTM):
        h, c, cache = reference.tree_lstm_forward(given["x"], children.tolist(), **W)
        result, gradients = {"h": h, "c": c}, reference.tree_lstm_backward(given["dh"], given["dc"], cache)
    else:
        activation = layer.config["activation"]
        h, cache = reference.tree_rnn_forward(given["x"], children.tolist(), **W, activation=activation)
        result, gradients = {"h": h}, reference.tree_rnn_backward(given["dh"], cache)
    names = ("dx", "dWx", "dWh", "db")
    return result | {name: a for name, a in zip(names, gradients, strict=True) if a is not None}


def assert_close(found, expected, limit):
    assert found.keys() == expected.keys()
    for name, a in found.items():
        assert a.shape == expected[name].shape
        distance = np.abs(a - expected[name]).max(initial=0)
        assert distance <= limit * max(1, np.abs(expected[name]).max(initial=0)), name


def assert_same(found, expected, rows=slice(None)):
    assert found.keys() == expected.keys()
    for name, a in found.items():
        np.testing.assert_array_equal(bits(np.ascontiguousarray(a)), bits(np.ascontiguousarray(expected[name][rows])), name)


# --- the definition ----------------------------------------------------------------------------------------------


@arities
@kinds
@pytest.mark.parametrize("b", [True, False])
def test_the_recursion_agrees_with_central_differences(kind, arity, b):
    """Along random directions of all arguments at once."""
    rng = np.random.default_rng(1)
    for activation in ("tanh", "sigmoid", "identity", "relu") if kind is TreeRNN else (None,):
        layer = make(kind, 3, 4, arity=arity, b=b, **({} if activation is None else {"activation": activation}))
        children = forest(13, arity or 4, rng)
        given = arrays_of(layer, 13, rng)
        found = by_reference(layer, given, children)
        for _ in range(3):
            direction = {name: values(rng, a.shape) for name, a in {"x": given["x"], **layer.weights}.items()}
            epsilon, losses = 1e-5, []
            for sign in (1, -1):
                moved = copy.deepcopy(layer)
                for name, a in moved.weights.items():
                    a += sign * epsilon * direction[name]
                there = by_reference(moved, given | {"x": given["x"] + sign * epsilon * direction["x"]}, children)
                losses.append(sum(np.vdot(given[f"d{state}"], there[state]) for state in ("h", "c") if state in there))
            expected = (losses[0] - losses[1]) / (2 * epsilon)
            slope = sum(np.vdot(found[f"d{name}"], d) for name, d in direction.items())
            assert abs(slope - expected) <= 1e-7 * max(1, abs(expected))


# --- level by level ----------------------------------------------------------------------------------------------


@arities
@kinds
@pytest.mark.parametrize("b", [True, False])
def test_results_are_those_of_the_recursion(kind, arity, b):
    rng = np.random.default_rng(2)
    for D, H in ((1, 1), (4, 7), (8, 8), (15, 9), (3, 16), (17, 5), (5, 33), (40, 31)):
        layer = make(kind, D, H, arity=arity, b=b)
        for M in (1, 2, 7, 40):
            children = forest(M, arity or 5, rng)
            given = arrays_of(layer, M, rng)
            assert_close(run(layer, given, Trees(children)), by_reference(layer, given, children), 1e-12)


@kinds
def test_forms_of_trees(kind):
    """Balanced, deep, flat; one node; many trees of one node."""
    rng = np.random.default_rng(3)
    shapes = {
        "balanced": (bench.balanced(3, 16), (2, 3, None)),
        "caterpillar": (bench.caterpillar(2, 30), (2, None)),
        "random": (bench.random(2, 16, rng), (2, None)),
        "chain": (chain(50), (1, 2, None)),
        "star": (star(40), (39, None)),
        "wide star": (star(300), (None,)),
        "one": (np.full((1, 2), -1), (2, None)),
        "leaves": (np.full((9, 2), -1), (2, None)),
        "no column": (np.empty((9, 0), np.int64), (1, None)),
    }
    for children, allowed in shapes.values():
        for arity in allowed:
            layer = make(kind, 3, 5, arity=arity)
            given = arrays_of(layer, len(children), rng)
            assert_close(run(layer, given, Trees(children)), by_reference(layer, given, children), 1e-12)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "identity"])
def test_activations_of_the_tree_rnn(activation):
    rng = np.random.default_rng(4)
    for arity in (2, None):
        layer, children = make(TreeRNN, arity=arity, activation=activation), forest(30, 2, rng)
        given = arrays_of(layer, 30, rng)
        assert_close(run(layer, given, Trees(children)), by_reference(layer, given, children), 1e-12)


@arities
@kinds
def test_float32_is_within_ulps_of_the_exact_result(kind, arity):
    """Forward 4, gradients 16 units in the last place of the largest exact value; weights in ±1/√H, inputs in ±1."""
    rng = np.random.default_rng(5)
    for D, H in ((6, 9), (16, 16), (20, 33)):
        layer = kind(D, H, arity=arity, dtype=np.float32, rng=5)
        layer.parameters[...] = rng.uniform(-1, 1, layer.parameters.size) / np.sqrt(H)
        children = forest(60, arity or 3, rng)
        given = {name: rng.uniform(-1, 1, a.shape).astype(np.float32) for name, a in arrays_of(layer, 60, rng).items()}
        exact = by_reference(layer, given, children, np.longdouble)
        for name, a in run(layer, given, Trees(children)).items():
            unit = np.spacing(np.float32(np.abs(exact[name]).max()))
            distance = np.abs(a - exact[name]).max() / unit
            assert distance <= (4 if name in ("h", "c") else 16), name


def test_a_chain_is_a_sequence():
    rng = np.random.default_rng(6)
    for kind, cell in ((TreeLSTM, "lstm"), (TreeRNN, "rnn")):
        for arity in (1, None):
            layer = make(kind, 4, 6, arity=arity)
            given = arrays_of(layer, 12, rng)
            found = run(layer, given, Trees(chain(12)))
            states = (None, None)[: 1 + (cell == "lstm")]
            sequence = getattr(fastgate, f"{cell}_forward")(given["x"][None], *states, **layer.weights)
            np.testing.assert_allclose(found["h"], sequence.h[0], rtol=0, atol=1e-13)
            if kind is TreeRNN:
                expected = fastgate.rnn_backward(given["dh"][None], sequence.cache)
                assert_close({"dx": found["dx"][None], "dWx": found["dWx"], "dWh": found["dWh"], "db": found["db"]},
                             {name: getattr(expected, name) for name in ("dx", "dWx", "dWh", "db")}, 1e-12)  # fmt: skip


# --- the same bits -----------------------------------------------------------------------------------------------


@arities
@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tree_alone_equals_the_tree_among_others(kind, arity, dtype):
    rng = np.random.default_rng(8)
    layer = make(kind, 5, 9, arity=arity, dtype=dtype)
    forests = [forest(M, arity or 4, rng) for M in (1, 3, 20, 33, 70)]
    starts = np.cumsum([0, *map(len, forests)])
    together = np.concatenate([np.where(f < 0, -1, f + start) for f, start in zip(forests, starts, strict=False)])
    given = arrays_of(layer, len(together), rng)
    for threads in (1, 2, 3):
        with fastgate.num_threads(threads):
            found = run(layer, given, Trees(together))
        for f, start in zip(forests, starts, strict=False):
            rows = slice(start, start + len(f))
            alone = run(layer, {name: a[rows] for name, a in given.items()}, Trees(f))
            of_nodes = {name: a for name, a in alone.items() if name in ("h", "c", "dx")}
            assert_same(of_nodes, {name: found[name] for name in of_nodes}, rows)


# D, H, nodes: several panels of units; more nodes than a block has rows, and than weight gradients are formed from at once
SHARED = ((5, 9, 40), (33, 40, 300), (3, 70, 200), (1, 16, 1300))


@arities
@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads(kind, arity, dtype):
    """Each piece of work, however small, shared by all threads."""
    rng = np.random.default_rng(20)
    for D, H, M in SHARED:
        layer = make(kind, D, H, arity=arity, dtype=dtype)
        children = star(M) if arity is None and M == 200 else forest(M, arity or 4, rng)
        given, trees = arrays_of(layer, M, rng), Trees(children)
        with fastgate.num_threads(1):
            expected = run(layer, given, trees)
        for threads in (2, 3, 8):
            _kernels._share_everything(True)
            try:
                with fastgate.num_threads(threads):
                    assert_same(run(layer, given, trees), expected)
            finally:
                _kernels._share_everything(False)


def hashes():
    """A line for each layer: a hash of all results, of a forest in which a node has more children than a block has rows."""
    for kind, arity, dtype in itertools.product(KINDS, ARITIES, (np.float32, np.float64)):
        results = []
        for D, H, M in SHARED:
            rng = np.random.default_rng(M)
            layer = make(kind, D, H, arity=arity, dtype=dtype)
            children = forest(M, arity or 4, rng) if arity or M < 300 else star(M)
            results.append(run(layer, arrays_of(layer, M, rng), Trees(children)))
        print(kind.__name__, arity, dtype.__name__, digest(results))


@pytest.mark.skipif(len(FMA_LEVELS) < 2, reason="one level with FMA")
@pytest.mark.skipif("FASTGATE_ISA" in os.environ, reason="it tries every level by itself")
def test_levels_agree():
    printed = {level: output_at(level, __file__) for level in LEVELS}
    assert len({printed[level] for level in FMA_LEVELS}) == 1
    assert all(text.count("\n") == 2 * len(KINDS) * len(ARITIES) for text in printed.values())


def assert_numbers_mean_nothing(layer, given, argument, topology, rng):
    """Nodes under other numbers have the same bits; `topology` is this argument of Trees."""
    number = rng.permutation(len(topology))  # node n is called number[n]
    renamed = np.empty_like(topology)
    renamed[number] = np.where(topology < 0, -1, number[topology])
    moved = {name: np.empty_like(a) for name, a in given.items()}
    for name, a in given.items():
        moved[name][number] = a
    found, expected = run(layer, moved, Trees(**{argument: renamed})), run(layer, given, Trees(**{argument: topology}))
    for name in ("h", "c", "dx"):
        if name in found:
            np.testing.assert_array_equal(bits(found[name][number]), bits(expected[name]))


@arities
@kinds
def test_the_numbers_of_the_nodes_mean_nothing(kind, arity):
    rng = np.random.default_rng(9)
    layer, children = make(kind, 5, 9, arity=arity), forest(80, arity or 4, rng)
    assert_numbers_mean_nothing(layer, arrays_of(layer, 80, rng), "children", children, rng)


@kinds
def test_calls_do_not_depend_on_how_arrays_lie(kind):
    rng = np.random.default_rng(10)
    layer, trees = make(kind, 5, 9), Trees(forest(50, 2, rng))
    given = arrays_of(layer, 50, rng)
    expected = run(layer, given, trees)
    for a in given.values():
        a.flags.writeable = False
    before = digest(given, layer.parameters)
    assert_same(run(layer, given, trees), expected)
    assert digest(given, layer.parameters) == before
    for change in (
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    ):
        assert_same(run(layer, {name: change(a) for name, a in given.items()}, trees), expected)


@arities
@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_states_are_the_same_where_nothing_is_kept(kind, arity, dtype):
    rng = np.random.default_rng(19)
    for H in (1, 7, 16, 33):
        layer, trees = make(kind, 5, H, arity=arity, dtype=dtype), Trees(forest(50, arity or 4, rng))
        x = arrays_of(layer, 50, rng)["x"]
        kept, without = layer.forward(x, trees), layer.forward(x, trees, training=False)
        assert without.cache is None
        for a, b in zip(without[:-1], kept[:-1], strict=True):
            np.testing.assert_array_equal(bits(a), bits(b))


@kinds
def test_inputs_may_overlap_the_gradients(kind):
    """As if they had been copied first."""
    rng = np.random.default_rng(17)
    for name in ("x", "dh", "dc")[: 2 + (kind is TreeLSTM)]:
        layer, trees = make(kind, 6, 6), Trees(forest(9, 2, rng))
        given = arrays_of(layer, 9, rng)
        expected = run(layer, given, trees)
        inside = layer.gradients[5 : 5 + 54].reshape(9, 6)
        inside[...] = given[name]
        assert_same(run(layer, given | {name: inside}, trees), expected)


@kinds
def test_two_summed_children_have_no_order(kind):
    rng = np.random.default_rng(18)
    for dtype in (np.float32, np.float64):
        layer, parent = make(kind, 5, 33, arity=None, dtype=dtype), Trees(forest(60, 2, rng)).parent
        assert_numbers_mean_nothing(layer, arrays_of(layer, 60, rng), "parent", parent, rng)


@kinds
def test_a_cache_is_its_own(kind):
    """Writing into the states that were returned changes no gradient; x is referred to."""
    rng = np.random.default_rng(16)
    for arity in (2, None):
        layer, trees = make(kind, 5, 9, arity=arity), Trees(forest(50, 2, rng))
        given = arrays_of(layer, 50, rng)
        upstream = {name: given[name] for name in given if name != "x"}
        found = layer.forward(given["x"], trees)
        expected = layer.backward(cache=found.cache, **upstream).dx, layer.gradients.copy()
        for a in found[:-1]:
            a[...] = np.nan
        layer.gradients[...] = 7
        np.testing.assert_array_equal(layer.backward(cache=found.cache, **upstream).dx, expected[0])
        np.testing.assert_array_equal(layer.gradients, expected[1])


@kinds
def test_nothing_of_a_tree_reaches_another(kind):
    rng = np.random.default_rng(11)
    layer, children = make(kind), bench.balanced(3, 4)
    given = arrays_of(layer, 21, rng)
    expected = run(layer, given, Trees(children))
    for bad in (np.nan, np.inf):
        given["x"][8] = bad  # in the second tree
        found = run(layer, given, Trees(children))
        for name in ("h", "dx"):
            for rows in (slice(0, 7), slice(14, 21)):
                np.testing.assert_array_equal(bits(found[name][rows]), bits(expected[name][rows]))
        assert not np.isfinite(found["h"][13]).any() or kind is TreeRNN  # the root above it
        assert np.isfinite(found["h"][7]).all()  # a leaf beside it


# --- as layers do ------------------------------------------------------------------------------------------------


@arities
@kinds
def test_upstream_gradients_that_are_not_given_are_zeros(kind, arity):
    rng = np.random.default_rng(12)
    layer, trees = make(kind, arity=arity), Trees(forest(20, arity or 3, rng))
    given = arrays_of(layer, 20, rng)
    upstream = [name for name in given if name != "x"]
    cache = layer.forward(given["x"], trees).cache
    for name in upstream:
        zeros = {other: np.zeros_like(given[other]) for other in upstream} | {name: given[name]}
        none = {other: None for other in upstream} | {name: given[name]}
        dx = layer.backward(cache=cache, **zeros).dx
        grads = layer.gradients.copy()
        np.testing.assert_array_equal(layer.backward(cache=cache, **none).dx, dx)
        np.testing.assert_array_equal(layer.gradients, grads)
    assert not layer.backward(None, cache).dx.any()
    assert not layer.gradients.any()


@kinds
def test_gradients_are_added_or_overwritten(kind):
    rng = np.random.default_rng(13)
    layer, trees = make(kind, dtype=np.float32), Trees(forest(20, 2, rng))
    given = arrays_of(layer, 20, rng)
    cache = layer.forward(given["x"], trees).cache
    assert layer.backward(given["dh"], cache, need_dx=False).dx is None
    once = layer.gradients.copy()
    assert layer.backward(given["dh"], cache).dx.shape == (20, 4)
    np.testing.assert_array_equal(layer.gradients, once)
    layer.backward(given["dh"], cache, accumulate=True)
    np.testing.assert_array_equal(layer.gradients, once + once)
    assert cache.nbytes > 0
    assert repr(cache) == f"<cache of {kind.__name__}.forward: M=20, {cache.nbytes} bytes>"


@arities
@kinds
@pytest.mark.parametrize("b", [True, False])
def test_weights_lie_in_one_array_and_in_files(kind, arity, b, tmp_path):
    layer = kind(3, 5, arity=arity, b=b, rng=1)
    K, lstm = arity or 1, kind is TreeLSTM
    shapes = {"Wx": (3, 20 if lstm else 5), "Wh": (5 * K, 5 * (3 + K) if lstm else 5), "b": (20 if lstm else 5,)}
    if not b:
        del shapes["b"]
    assert {name: a.shape for name, a in layer.weights.items()} == shapes
    assert layer.num_parameters == layer.parameters.size == sum(a.size for a in layer.weights.values())
    assert all(np.shares_memory(a, layer.parameters) for a in layer.weights.values())
    assert layer.arity == arity
    np.testing.assert_array_equal(layer.parameters, kind(3, 5, arity=arity, b=b, rng=1).parameters)
    if lstm and b:
        np.testing.assert_array_equal(layer.weights["b"], np.repeat([0, 1, 0, 0], 5))
    blocks = layer.weights["Wh"].reshape(K, 5, -1, 5)
    for k in range(K):
        for g in range(blocks.shape[2]):
            np.testing.assert_allclose(blocks[k, :, g] @ blocks[k, :, g].T * K, np.eye(5), atol=1e-5)

    path = tmp_path / "tree.npz"
    layer.gradients[...] = 7
    layer.save(path)
    for other in (load(path), kind.load(path), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert type(other) is kind
        assert other.config == layer.config
        np.testing.assert_array_equal(other.parameters, layer.parameters)
        assert not np.shares_memory(other.parameters, layer.parameters)
    assert kind(**layer.config).config == layer.config
    other = kind(3, 5, arity=arity, b=b)
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other.parameters, layer.parameters)
    with pytest.raises(ValueError, match=f"it holds {kind.__name__}"):
        fastgate.LSTM.load(path)


def test_repr():
    assert repr(TreeLSTM(3, 4)) == "TreeLSTM(3, 4): 224 parameters\n  Wx (3, 16)  Wh (8, 20)  b (16,)"
    assert repr(TreeRNN(3, 4, arity=None, b=False, activation="relu", dtype=np.float64)) == (
        "TreeRNN(3, 4, arity=None, b=False, activation='relu', dtype='float64'): 28 parameters\n  Wx (3, 4)  Wh (4, 4)"
    )


@arities
@kinds
def test_no_node_at_all(kind, arity):
    layer, trees = make(kind, arity=arity), Trees(np.empty((0, 2), np.int64))
    layer.gradients[...] = 7
    found = run(layer, arrays_of(layer, 0, np.random.default_rng(14)), trees)
    assert found["h"].shape == (0, 6)
    assert found["dx"].shape == (0, 4)
    assert not layer.gradients.any()
    assert (trees.num_nodes, trees.num_trees, trees.depth) == (0, 0, 0)


def test_what_does_not_fit_is_refused():
    layer, trees = make(TreeLSTM), Trees(bench.balanced(1, 4))
    x = np.ones((7, 4))
    cache = layer.forward(x, trees).cache
    before = layer.gradients.copy()
    for call, words, kind in (
        (lambda: layer.forward(x[:6], trees), r"x: expected \(M, D\) = \(7, 4\), got \(6, 4\)", ValueError),
        (lambda: layer.forward(x.T, trees), r"x: expected \(M, D\) = \(7, 4\), got \(4, 7\); pass x.T\?", ValueError),
        (lambda: layer.forward(x.astype(np.float32), trees), "x: expected float64 as the layer, got float32", TypeError),
        (lambda: layer.forward(x, [[1, 2]]), r"trees: expected fastgate.layers.Trees, got list; pass Trees\(children\)\?",
         TypeError),
        (lambda: layer.forward(x, trees, training=1), "training: expected True or False", TypeError),
        (lambda: make(TreeLSTM, arity=1).forward(x, trees),
         "trees: expected at most arity = 1 children of a node, got position 1 below node 4", ValueError),
        (lambda: layer.backward(x, cache), r"dh: expected \(M, H\) = \(7, 6\), got \(7, 4\)", ValueError),
        (lambda: layer.backward(None, cache, x), r"dc: expected \(M, H\) = \(7, 6\), got \(7, 4\)", ValueError),
        (lambda: layer.backward(None, None), "cache: expected the cache of this layer's forward, got None; call", ValueError),
        (lambda: make(TreeLSTM).backward(None, cache), "got that of another TreeLSTM", ValueError),
        (lambda: layer.backward(None, cache, accumulate=2), "accumulate: expected True or False", TypeError),
        (lambda: TreeLSTM(0, 4), "input_size: expected an integer >= 1, got 0", ValueError),
        (lambda: TreeLSTM(3, 4, arity=0), "arity: expected an integer >= 1, got 0", ValueError),
        (lambda: TreeLSTM(3, 4, arity=2.0), "arity: expected an integer >= 1, got float 2.0", TypeError),
        (lambda: TreeLSTM(3, 4, b=1), "b: expected True or False", TypeError),
        (lambda: TreeLSTM(3, 4, dtype=np.int32), "dtype: expected float32 or float64", TypeError),
        (lambda: TreeRNN(3, 4, activation="elu"), "activation: expected ", ValueError),
        (lambda: TreeRNN(10**9, 10**9), "input_size = 1000000000, hidden_size = 1000000000, arity = 2", OverflowError),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):
            call()
    np.testing.assert_array_equal(layer.gradients, before)


# --- Trees -------------------------------------------------------------------------------------------------------


def test_trees_of_children_and_of_parents_are_the_same():
    rng = np.random.default_rng(15)
    for K in (1, 2, 5):
        children = forest(60, K, rng)
        trees = Trees(children)
        again = Trees(parent=trees.parent)
        for a in (trees, again, Trees(children.tolist()), pickle.loads(pickle.dumps(trees))):
            np.testing.assert_array_equal(a.parent, trees.parent)
            np.testing.assert_array_equal(a.roots, trees.roots)
            assert (a.num_nodes, a.num_trees, a.depth) == (60, len(trees.roots), trees.depth)
        for n, row in enumerate(children):
            assert set(np.flatnonzero(trees.parent == n)) == set(row[row >= 0])
        packed = np.full((60, 60), -1)  # a parent's children, in the order of their numbers
        for n in range(60):
            below = np.flatnonzero(trees.parent == n)
            packed[n, : len(below)] = below
        layer = make(TreeLSTM, arity=K)
        given = arrays_of(layer, 60, rng)
        assert_same(run(layer, given, again), run(layer, given, Trees(packed)))


def test_what_trees_say():
    trees = Trees([[-1, -1], [-1, -1], [0, 1], [2, -1], [-1, -1]])
    assert repr(trees) == "<Trees: 5 nodes, 2 trees, depth 3>"
    assert trees.parent.tolist() == [2, 2, 3, -1, -1]
    assert trees.roots.tolist() == [3, 4]
    for own in (trees, pickle.loads(pickle.dumps(trees)), copy.deepcopy(trees)):
        with pytest.raises(ValueError, match="read-only"):
            own.parent[0] = 1
    assert Trees(parent=[]).num_nodes == 0
    assert Trees(np.array([[1], [-1]], np.int8)).depth == 2
    assert Trees(bench.balanced(256, 64)).depth == 7
    assert Trees(chain(sys.getrecursionlimit() * 3)).depth == sys.getrecursionlimit() * 3


def test_what_is_no_set_of_trees_is_refused():
    once = "children: expected each node below one parent, once, got node"
    for keywords, words, kind in (
        ({}, "children: expected either children or parent, got neither", ValueError),
        ({"children": [[-1]], "parent": [-1]}, "children: expected either children or parent, got both", ValueError),
        ({"children": [[1, -1], [-1, 2]]}, r"children: expected -1..M-1 = -1..1, got 2 at \(1, 1\)", ValueError),
        ({"children": [[1, -1], [-1, -2]]}, r"children: expected -1..M-1 = -1..1, got -2 at \(1, 1\)", ValueError),
        ({"children": [[2, -1], [-1, 2], [-1, -1]]}, f"{once} 2 below 0 and 1", ValueError),
        ({"children": [[1, 1], [-1, -1]]}, f"{once} 1 below 0 and 0", ValueError),
        ({"children": [[0, -1], [-1, -1]]}, "children: expected trees, got a cycle through node 0", ValueError),
        ({"children": [[-1, -1], [2, 0], [3, -1], [-1, 1]]}, "expected trees, got a cycle through node 1", ValueError),
        ({"children": [-1, 0]}, r"children: expected \(M, K\), got \(2,\)", ValueError),
        ({"children": [[0.5]]}, "children: expected integers, got float64", TypeError),
        (
            {"children": np.array([[2**63]], np.uint64)},
            "children: expected -1..M-1 = -1..0, got 9223372036854775808",
            ValueError,
        ),
        ({"parent": [1, 2, 0]}, "parent: expected trees, got a cycle through node 0", ValueError),
        ({"parent": [1, 3]}, "parent: expected -1..M-1 = -1..1, got 3 at node 1", ValueError),
        ({"parent": [[-1]]}, r"parent: expected \(M,\), got \(1, 1\)", ValueError),
        ({"parent": [None]}, "parent: expected integers, got object", TypeError),
    ):
        with pytest.raises(kind, match=words):
            Trees(**keywords)


@kinds
def test_the_benchmark_compares_the_same_numbers(kind):
    """case() ends with an error where the recursion by hand returns others."""
    for training in (False, True):
        for children in (bench.balanced(2, 4), bench.caterpillar(1, 5)):
            assert bench.case(kind, children, 3, 5, training).keys() == {"fastgate", "NumPy"}


if __name__ == "__main__":
    hashes()
