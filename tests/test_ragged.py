"""Ragged batches on flat rows: the bits of the padded call with lengths, and nothing padded anywhere.

A batch is a list of lengths. TABLES says how its steps lie in the flat arrays; flat() moves a padded array there, so that every
result has its expectation in the padded call on the same values.
"""

import itertools
import tracemalloc

import numpy as np
import pytest
from layouts import LAYOUTS, lay_out
from support import (
    CELLS,
    VARIANTS,
    assert_same,
    digest,
    each,
    every_module,
    is_steady,
    modules,
    of_weights,
    permuted,
    random_call,
    run,
    upstream,
    values,
    variant_id,
)

import fastgate
from fastgate import reference

variants = pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=map(variant_id, VARIANTS))
dtypes = each("dtype", [np.float32, np.float64])
TABLES = ("offsets", "batch_sizes")
tables = each("table", TABLES)
every_cell = pytest.mark.parametrize("cell", CELLS, ids=repr)


def random_lengths(N, T):
    lengths = np.random.default_rng([N, T]).integers(0, T + 1, N)
    lengths[N // 2] = T
    return lengths.tolist()


BATCHES = {
    "mixed": [3, 0, 6, 2],
    "ends_with_zeros": [0, 4, 1, 0],
    "alone": [5],
    "one_step": [1],
    "one_step_each": [1, 1, 1, 1, 1],
    "two_steps": [2, 1, 0],
    "equal": [4, 4, 4],
    "empty": [],
    "zero": [0],
    "zeros": [0, 0, 0],
    # where the driver changes its ways
    "sixteen": random_lengths(16, 9),
    "many": random_lengths(70, 12),
    "more_rows_than_collected": random_lengths(700, 3),
    "many_steps": [300, 7, 0, 150, 300],
}
WIDTHS = (1, 7, 8, 9, 15, 16, 17, 31, 33)


def in_table(lengths, table):
    """(the lengths that a table can tell, in its order; (sequence, time) of each flat row; the table as an argument)."""
    if table == "offsets":
        places = [(n, t) for n, length in enumerate(lengths) for t in range(length)]
        return lengths, places, {"offsets": np.append(0, np.cumsum(lengths, dtype=np.int64))}
    lengths = sorted((length for length in lengths if length), reverse=True)
    places = [(n, t) for t in range(max(lengths, default=0)) for n, length in enumerate(lengths) if t < length]
    return lengths, places, {"batch_sizes": np.bincount([t for _, t in places]).astype(np.int64)}


def flat(padded, places):
    """The rows of a padded array (N, T, K), in the order of `places`."""
    n, t = np.array(places, int).reshape(-1, 2).T
    return padded[n, t]


def drawn(cell, lengths, table, *, dtype=np.float64, D=6, H=9, **biases):
    """A padded call and its flat twin: each (call, upstream gradients, keywords); and the places of the flat rows. Padding is
    NaN and two steps longer than it must be."""
    lengths, places, as_argument = in_table(lengths, table)
    N, T = len(lengths), max(lengths, default=0) + 2
    rng = np.random.default_rng([N, T, D, H])
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype, **biases)
    gradients = upstream(cell, rng, call)
    call_, gradients_ = dict(call, x=flat(call["x"], places)), dict(gradients, dh=flat(gradients["dh"], places))
    for n, length in enumerate(lengths):
        call["x"][n, length:] = gradients["dh"][n, length:] = np.nan
    return (call, gradients, {"lengths": np.array(lengths, int)}), (call_, gradients_, as_argument), places


def flattened(results, places):
    """The results of a padded call as a ragged call has them."""
    return results | {name: flat(results[name], places) for name in ("h", "dx") if name in results}


def check(cell, options, lengths, table, module=fastgate, **sizes):
    padded, ragged, places = drawn(cell, lengths, table, **sizes)
    orders = (cell.gates, cell.gates[1:] + cell.gates[0]) if cell.G > 1 else (None,)
    for reverse, order in itertools.product((False, True), orders):
        keywords = dict(options) | {"reverse": reverse} | ({} if order is None else {"gate_order": order})
        call, gradients, lengths_ = padded
        expected = flattened(run(cell, module, call, gradients, **lengths_, **keywords), places)
        call, gradients, table_ = ragged
        assert_same(run(cell, module, call, gradients, ragged=True, **table_, **keywords), expected)


@variants
@dtypes
@tables
@each("batch", BATCHES)
def test_equals_the_padded_call(cell, options, dtype, table, batch):
    check(cell, options, BATCHES[batch], table, dtype=dtype)


@variants
@dtypes
@tables
def test_equals_the_padded_call_at_every_width(cell, options, dtype, table):
    for H in WIDTHS:
        D = WIDTHS[(WIDTHS.index(H) + 3) % len(WIDTHS)]
        for lengths in ([3, 0, 6, 2], [2, 1], [1], [7], random_lengths(33, 4)):
            check(cell, options, lengths, table, dtype=dtype, D=D, H=H)


@variants
@tables
@each("biases", [{"b": False, "bh": False}, {"b": True, "bh": False}, {"b": False, "bh": True}])
def test_equals_the_padded_call_without_biases(cell, options, table, biases):
    check(cell, options, [3, 0, 6, 2], table, **biases)


@variants
@tables
@each("batch", ["mixed", "one_step_each", "empty", "zeros", "sixteen"])
def test_the_reference_equals_its_padded_call(cell, options, table, batch):
    check(cell, options, BATCHES[batch], table, module=reference)


@variants
@dtypes
@tables
@each("batch", ["mixed", "many", "many_steps", "empty", "zeros"])
def test_kernels_against_the_reference(cell, options, dtype, table, batch):
    _, (call, gradients, table_), _ = drawn(cell, BATCHES[batch], table, dtype=dtype, D=17, H=15)
    if dict(options).get("activation") == "relu":  # rounding must not move an input across 0
        call = {name: abs(a) / 8 for name, a in call.items()}
    for name in call.keys() & {"Wx", "Wh", "peephole"}:  # gradients neither grow nor vanish
        call[name] *= 0.6
    if "cell_clip" in dict(options):  # nor what is clipped across its bound
        while not is_steady(cell, call, ragged=True, **dict(options), **table_):
            call["x"] *= dtype(0.99)
    exact, exact_gradients = ({name: a.astype(np.float64) for name, a in arrays.items()} for arrays in (call, gradients))
    keywords = dict(options) | table_ | {"ragged": True}
    found, exact = run(cell, fastgate, call, gradients, **keywords), run(cell, reference, exact, exact_gradients, **keywords)
    assert found.keys() == exact.keys()
    for name, a in exact.items():
        bound = 64 * np.finfo(dtype).eps * max(1, np.abs(a).max(initial=0))
        np.testing.assert_allclose(found[name], a, rtol=0, atol=bound, err_msg=name)


# --- the options ---------------------------------------------------------------------------------------------------------


@variants
@dtypes
@tables
def test_training_and_return_sequences(cell, options, dtype, table):
    _, (call, gradients, table_), _ = drawn(cell, [3, 0, 6, 2], table, dtype=dtype)
    keywords = dict(options) | table_ | {"ragged": True}
    full = run(cell, fastgate, call, gradients, **keywords)
    for training, return_sequences in itertools.product((False, True), repeat=2):
        returned = {"training": training, "return_sequences": return_sequences}
        found = run(cell, fastgate, call, gradients if training else None, **returned, **keywords)
        absent = {name for name in full if (name == "h" and not return_sequences) or (name[0] == "d" and not training)}
        assert found.keys() == full.keys() - absent
        assert_same(found, full, found)


@variants
@dtypes
@tables
def test_need_and_missing_upstream(cell, options, dtype, table):
    (call, gradients, lengths), (call_, gradients_, table_), places = drawn(cell, [3, 0, 6, 2], table, dtype=dtype)
    full = run(cell, fastgate, call_, gradients_, ragged=True, **table_, **dict(options))
    for name in [name for name in full if name.startswith("d")]:
        found = run(cell, fastgate, call_, gradients_, need=(name,), ragged=True, **table_, **dict(options))
        assert [other for other in found if other.startswith("d")] == [name]
        assert_same(found, full, [name])
    for absent in gradients:
        expected = run(cell, fastgate, call, gradients | {absent: None}, **lengths, **dict(options))
        found = run(cell, fastgate, call_, gradients_ | {absent: None}, ragged=True, **table_, **dict(options))
        assert_same(found, flattened(expected, places))


@variants
@dtypes
@tables
def test_layouts_and_out(cell, options, dtype, table):
    """Each argument in each layout, inputs untouched; outputs in each layout, nothing written beside them."""
    _, (call, gradients, table_), _ = drawn(cell, [3, 0, 6, 2], table, dtype=dtype)
    keywords = dict(options) | table_
    forward, backward = cell.function(fastgate, "ragged_forward"), cell.function(fastgate, "ragged_backward")
    result = forward(**call, **keywords)
    outputs = {name: a for name, a in result._asdict().items() if name != "cache"}
    expected = backward(cache=result.cache, **gradients)._asdict()
    for layout in LAYOUTS:
        moved, dmoved = ({name: lay_out(layout, a) for name, a in arrays.items()} for arrays in (call, gradients))
        before = digest(moved, dmoved, table_)
        assert_same(run(cell, fastgate, moved, dmoved, ragged=True, **keywords), outputs | expected)
        assert digest(moved, dmoved, table_) == before
        if layout in ("bytes_swapped", "read_only"):
            continue
        for like, function in (
            (outputs, lambda out: forward(**call, **keywords, out=out)),
            (expected, lambda out: backward(cache=result.cache, **gradients, out=out)),
        ):
            out = {name: lay_out(layout, np.full(a.shape, np.nan, dtype)) for name, a in like.items()}
            found = function(out)._asdict()
            for name, a in out.items():
                assert found[name] is a
                if a.base is not None and a.base.dtype == dtype:
                    assert np.isnan(a.base).sum() == a.base.size - a.size, name
            assert_same(found, like, like)


@variants
@tables
def test_out_may_overlap_an_input(cell, options, table):
    _, (call, gradients, table_), _ = drawn(cell, [3, 0, 6, 2], table, D=cell.P(9), H=9)
    expected = run(cell, fastgate, call, gradients, ragged=True, **table_, **dict(options))
    x, dh = call["x"].copy(), gradients["dh"].copy()
    found = cell.function(fastgate, "ragged_forward")(**call | {"x": x}, **table_, **dict(options), out=x)
    assert found.h is x
    assert_same(found._asdict(), expected, ["h", "h_T"])
    cache = cell.function(fastgate, "ragged_forward")(**call, **table_, **dict(options)).cache
    found = cell.function(fastgate, "ragged_backward")(cache=cache, **gradients | {"dh": dh}, out=dh)
    assert found.dx is dh
    assert_same(found._asdict(), expected, found._fields)


@variants
@tables
def test_broadcast_states(cell, options, table):
    (call, gradients, lengths), (call_, gradients_, table_), places = drawn(cell, [3, 1, 6, 2], table)
    for states in ({name: call[name][0] for name in cell.states()}, dict.fromkeys(cell.states())):
        expected = run(cell, fastgate, call | states, gradients, **lengths, **dict(options))
        found = run(cell, fastgate, call_ | states, gradients_, ragged=True, **table_, **dict(options))
        assert_same(found, flattened(expected, places))


@variants
def test_one_row_for_all_steps(cell, options):
    """An x that takes the memory of one row."""
    _, (call, gradients, table), _ = drawn(cell, [3, 0, 6, 2], "offsets")
    whole = call | {"x": np.repeat(call["x"][:1], 11, axis=0)}
    one = call | {"x": np.broadcast_to(call["x"][:1], (11, 6))}
    assert_same(*(run(cell, fastgate, c, gradients, ragged=True, **table, **dict(options)) for c in (one, whole)))


@every_cell
def test_sizes_of_zero(cell):
    for table, (D, H) in itertools.product(TABLES, ((0, 5), (4, 0))):
        _, (call, gradients, table_), _ = drawn(cell, [3, 0, 6, 2], table, D=D, H=H)
        out = {"dx": np.full((11, D), 7.0)}
        result = cell.function(fastgate, "ragged_forward")(**call, **table_)
        assert result.h.shape == (11, H)
        cell.function(fastgate, "ragged_backward")(cache=result.cache, **gradients, out=out)
        assert H > 0 or not out["dx"].any()


# --- the tables -----------------------------------------------------------------------------------------------------------


@every_cell
def test_tables_of_any_integers(cell):
    for table in TABLES:
        _, (call, gradients, table_), _ = drawn(cell, [3, 0, 6, 2], table)
        expected = run(cell, fastgate, call, gradients, ragged=True, **table_)
        given = table_[table]
        forms = [given.tolist(), tuple(given), np.repeat(given, 2)[::2], given[::-1].copy()[::-1]]
        forms += [given.astype(dtype) for dtype in (np.uint8, np.uint64, ">i2")]
        for form in forms:
            assert_same(run(cell, fastgate, call, gradients, ragged=True, **{table: form}), expected)


@every_cell
def test_a_cache_owns_its_tables(cell):
    for table, module in itertools.product(TABLES, modules()):
        _, (call, gradients, table_), _ = drawn(cell, [3, 0, 6, 2], table)
        expected = run(cell, module, call, gradients, ragged=True, **table_)
        cache = cell.function(module, "ragged_forward")(**call, **table_).cache
        table_[table][...] = 77
        found = cell.function(module, "ragged_backward")(cache=cache, **gradients)._asdict()
        assert_same(found, expected, found)


@variants
@dtypes
def test_the_order_of_the_sequences_changes_nothing(cell, options, dtype):
    """Not a bit of what belongs to a sequence; nor of the weights' gradients, where no two sequences are of one length."""
    rng = np.random.default_rng(0)
    for lengths in ([3, 0, 6, 2], random_lengths(40, 9)):
        _, (call, gradients, table), places = drawn(cell, lengths, "offsets", dtype=dtype)
        expected = run(cell, fastgate, call, gradients, ragged=True, **table, **dict(options))
        sequence = np.array([n for n, _ in places])
        for _ in range(3):
            turned = rng.permutation(len(lengths))
            rows = np.concatenate([np.flatnonzero(sequence == n) for n in turned])
            moved = call | {"x": call["x"][rows]} | {name: call[name][turned] for name in cell.states()}
            dmoved = {name: a[rows if name == "dh" else turned] for name, a in gradients.items()}
            offsets = np.append(0, np.cumsum(np.array(lengths)[turned]))
            found = run(cell, fastgate, moved, dmoved, ragged=True, offsets=offsets, **dict(options))
            for name in expected:
                if not of_weights(name):
                    expected_ = expected[name][rows if name in ("h", "dx") else turned]
                    assert_same({name: found[name]}, {name: expected_})
                elif len(set(lengths)) == len(lengths):
                    assert_same({name: found[name]}, {name: expected[name]})


@variants
def test_both_tables_agree(cell, options):
    """Sequences that stand longest first: the two ways to lay them out give the same bits."""
    lengths = sorted(random_lengths(40, 9), reverse=True)
    lengths = lengths[: lengths.index(0)]
    found = []
    for table in TABLES:
        _, (call, gradients, table_), places = drawn(cell, lengths, table)
        found.append(run(cell, fastgate, call, gradients, ragged=True, **table_, **dict(options)))
        by_sequence = sorted(range(len(places)), key=places.__getitem__)
        found[-1] |= {name: found[-1][name][by_sequence] for name in ("h", "dx")}
    assert_same(*found)


# --- what it costs --------------------------------------------------------------------------------------------------------


@every_cell
def test_the_cost_is_that_of_the_sum_of_lengths(cell):
    """What forward keeps, a row for each step computed, depends on the number and the sum of lengths alone."""
    kept = set()
    for lengths in ([20, 1, 1, 1, 1], [5, 5, 5, 5, 4], [24, 0, 0, 0, 0], [0, 0, 12, 12, 0]):
        _, (call, _, table), _ = drawn(cell, lengths, "offsets")
        kept.add(cell.function(fastgate, "ragged_forward")(**call, **table).cache.nbytes)
    assert len(kept) == 1
    _, (call, _, table), _ = drawn(cell, [40, 2, 2, 2, 2], "offsets")
    twice = cell.function(fastgate, "ragged_forward")(**call, **table).cache.nbytes
    assert twice < 2 * kept.pop()


@every_cell
@tables
def test_nothing_padded_is_allocated(cell, table):
    """One sequence of 65,536 steps beside 65,535 of one step; padded, x alone would take 32 GiB.

    x has two columns: of one, the normalised product does not depend on its size, and dx is near 0."""
    many = 2**16
    rows, table_ = 2 * many - 1, {"offsets": np.append(0, np.arange(many, 2 * many))}
    if table == "batch_sizes":
        table_ = {"batch_sizes": np.append(many, np.ones(many - 1, int))}
    call = random_call(cell, np.random.default_rng(0), N=1, T=rows, D=2, H=1, dtype=np.float32)
    call |= {"x": call["x"][0]} | dict.fromkeys(cell.states())
    forward, backward = cell.function(fastgate, "ragged_forward"), cell.function(fastgate, "ragged_backward")
    tracemalloc.start()
    result = forward(**call, **table_)
    gradients = backward(result.h, result.cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * rows  # h, dx, and what the judge makes of the table
    assert result.cache.nbytes < 64 * 4 * 10 * rows
    assert np.isfinite(gradients.dx).all()
    assert gradients.dx.all()


# --- beside PyTorch -------------------------------------------------------------------------------------------------------

BIASES = {"b": "bias_ih_l0", "bh": "bias_hh_l0"}


@pytest.mark.parametrize(
    ("name", "options"), [("lstm", {}), ("gru", {}), ("rnn", {"activation": "tanh"}), ("rnn", {"activation": "relu"})]
)
@pytest.mark.beside
def test_a_packed_sequence_of_pytorch(name, options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    [cell] = [cell for cell in CELLS if cell.name == name]
    lengths = random_lengths(9, 7)
    lengths = [max(length, 1) for length in lengths]
    rng = np.random.default_rng(3)
    call = random_call(cell, rng, N=9, T=7, D=5, H=8)
    x = [call["x"][n, :length] for n, length in enumerate(lengths)]

    with torch.random.fork_rng():
        kind = {"activation": "nonlinearity"}
        net = getattr(torch.nn, name.upper())(5, 8, dtype=torch.float64, **{kind[k]: v for k, v in options.items()})
    with torch.no_grad():
        net.weight_ih_l0.copy_(torch.from_numpy(call["Wx"].T.copy()))
        net.weight_hh_l0.copy_(torch.from_numpy(call["Wh"].T.copy()))
        for bias, theirs in BIASES.items():
            getattr(net, theirs).copy_(torch.from_numpy(call[bias]))
    packed = torch.nn.utils.rnn.pack_sequence([torch.from_numpy(rows) for rows in x], enforce_sorted=False)
    data = packed.data.clone().requires_grad_()
    states = [torch.from_numpy(call[state]).requires_grad_() for state in cell.states()]
    theirs, ends = net(packed._replace(data=data), tuple(s[None] for s in states) if cell.has_c else states[0][None])
    ends = [end[0] for end in (ends if cell.has_c else (ends,))]

    turned = packed.sorted_indices.numpy()
    ours = {"x": packed.data.numpy(), **{state: call[state][turned] for state in cell.states()}}
    found = cell.function(fastgate, "ragged_forward")(**call | ours, batch_sizes=packed.batch_sizes, **options)
    np.testing.assert_allclose(found.h, theirs.data.detach().numpy(), rtol=0, atol=1e-12)
    for end, expected in zip(found[1:-1], ends, strict=True):
        np.testing.assert_allclose(end, expected.detach().numpy()[turned], rtol=0, atol=1e-12)

    dh, dends = values(rng, found.h.shape), [values(rng, (9, 8)) for _ in ends]
    torch.autograd.backward([theirs.data, *ends], [torch.from_numpy(d) for d in (dh, *dends)])
    gradients = cell.function(fastgate, "ragged_backward")(dh, found.cache, *(d[turned] for d in dends))
    expected = {"dx": data.grad, "dWx": net.weight_ih_l0.grad.T, "dWh": net.weight_hh_l0.grad.T}
    expected |= {f"d{bias}": getattr(net, theirs).grad for bias, theirs in BIASES.items()}
    expected |= {f"d{state}": s.grad[turned] for state, s in zip(cell.states(), states, strict=True)}
    assert expected.keys() == gradients._asdict().keys()
    for gradient, a in expected.items():
        np.testing.assert_allclose(getattr(gradients, gradient), a.numpy(), rtol=0, atol=1e-11, err_msg=gradient)


# --- errors ---------------------------------------------------------------------------------------------------------------

N, D, H = 3, 5, 7  # offsets [0, 2, 2, 6]
ERRORS = [
    ({"offsets": None}, ValueError, "offsets: expected either offsets or batch_sizes, got neither"),
    ({"batch_sizes": [3, 2, 1]}, ValueError, "offsets: expected either offsets or batch_sizes, got both"),
    ({"offsets": [0, 2, 2, 5]}, ValueError, "offsets: expected offsets[N] = sum T = 6, got 5"),
    ({"offsets": [0, 2, 2, 7]}, ValueError, "offsets: expected offsets[N] = sum T = 6, got 7"),
    ({"offsets": [1, 2, 2, 6]}, ValueError, "offsets: expected offsets[0] = 0, got 1"),
    ({"offsets": [0, 7, 2, 6]}, ValueError, "offsets: expected integers that never fall, got 7, 2 in row 1"),
    ({"offsets": np.array([0, 2**64 - 1, 2, 6], np.uint64)}, ValueError,
     "offsets: expected integers that never fall, got 18446744073709551615, 2 in row 1"),
    ({"offsets": []}, ValueError, "offsets: expected (N + 1,), got (0,)"),
    ({"offsets": 6}, ValueError, "offsets: expected (N + 1,), got ()"),
    ({"offsets": [[0, 6]]}, ValueError, "offsets: expected (N + 1,), got (1, 2)"),
    ({"offsets": [0.0, 2.0, 2.0, 6.0]}, TypeError,
     "offsets: expected integers, got float64; pass np.asarray(offsets, np.int64)"),
    ({"offsets": [0, 2, 6]}, ValueError, "h0: expected (N, H) or (H,) = (2, 7) or (7,), got (3, 7)"),
    ({"offsets": None, "batch_sizes": [3, 2, 2]}, ValueError, "batch_sizes: expected a sum of sum T = 6, got 7"),
    ({"offsets": None, "batch_sizes": [3, 2]}, ValueError, "batch_sizes: expected a sum of sum T = 6, got 5"),
    ({"offsets": None, "batch_sizes": []}, ValueError, "batch_sizes: expected a sum of sum T = 6, got 0"),
    ({"offsets": None, "batch_sizes": [2**62, 2**62, 2**62, 2**62]}, ValueError,
     "batch_sizes: expected a sum of sum T = 6, got 18446744073709551616"),
    ({"offsets": None, "batch_sizes": [2, 3, 1]}, ValueError,
     "batch_sizes: expected integers that never grow, got 2, 3 at step 0"),
    ({"offsets": None, "batch_sizes": [3, 3, 0]}, ValueError, "batch_sizes: expected integers > 0, got 0 at step 2"),
    ({"offsets": None, "batch_sizes": [3, 4, -1]}, ValueError, "batch_sizes: expected integers > 0, got -1 at step 2"),
    ({"offsets": None, "batch_sizes": [[3, 2, 1]]}, ValueError, "batch_sizes: expected (T,), got (1, 3)"),
    ({"offsets": None, "batch_sizes": "321"}, TypeError, "batch_sizes: expected integers, got str"),
    ({"x": np.ones((N, 4, D))}, ValueError, "x: expected (sum T, D), got (3, 4, 5)"),
    ({"out": np.ones((N, 2, H))}, ValueError, "out: expected (6, 7), got (3, 2, 7)"),
]  # fmt: skip


def good_call(cell):
    call = random_call(cell, np.random.default_rng(0), N=N, T=4, D=D, H=H)
    return call | {"x": call["x"].reshape(-1, D)[:6], "offsets": np.array([0, 2, 2, 6])}


@every_module
@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors(module, wrong, error, message):
    for cell in CELLS:
        call = good_call(cell) | wrong
        before = digest(call)
        with pytest.raises(error) as caught:
            cell.function(module, "ragged_forward")(**call)
        assert str(caught.value) == message
        assert digest(call) == before


@every_module
@every_cell
def test_errors_backward(module, cell):
    ragged = cell.function(module, "ragged_forward")(**good_call(cell)).cache
    padded = cell.function(module, "forward")(**random_call(cell, np.random.default_rng(0), N=N, T=4, D=D, H=H)).cache
    name = cell.name
    with pytest.raises(ValueError, match=rf"^cache: expected the cache of {name}_forward, got that of {name}_ragged_forward"):
        cell.function(module, "backward")(None, ragged)
    with pytest.raises(ValueError, match=rf"^cache: expected the cache of {name}_ragged_forward, got that of {name}_forward"):
        cell.function(module, "ragged_backward")(None, padded)
    with pytest.raises(ValueError, match=rf"^cache: .* got None; call {name}_ragged_forward with training=True"):
        cell.function(module, "ragged_backward")(None, None)
    with pytest.raises(ValueError, match=r"^dh: expected \(sum T, H\) = \(6, 7\), got \(3, 2, 7\)"):
        cell.function(module, "ragged_backward")(np.ones((N, 2, H)), ragged)
    if module is fastgate:
        assert repr(ragged).startswith(f"<cache of {name}_ragged_forward: N=3, T=4, D=5, H=7, float64, ")


def test_sizes_that_no_memory_holds():
    one = np.ones((), np.float32)
    weights = {"Wx": np.ones((D, H), np.float32), "Wh": np.ones((H, H), np.float32)}
    for rows in (2**45, 2**55):
        x = np.broadcast_to(one, (rows, D))
        with pytest.raises((MemoryError, OverflowError), match=r"^x, Wx, Wh: N, T, D, H"):
            fastgate.rnn_ragged_forward(x, None, **weights, offsets=[0, rows])
        with pytest.raises((MemoryError, OverflowError), match=r"^batch_sizes: N"):
            fastgate.rnn_ragged_forward(x, None, **weights, batch_sizes=[rows])


def test_permuted_weights_are_permuted_gradients():
    """gate_order of a ragged call: gradients return in the order in which the weights came."""
    [cell] = [cell for cell in CELLS if cell.name == "lstm"]
    call = good_call(cell)
    weights = {name: permuted(call[name], cell.gates, "ogfi") for name in ("Wx", "Wh", "b", "bh")}
    own, other = (run(cell, fastgate, c, {"dh": np.ones((6, H))}, ragged=True, **k)
                  for c, k in ((call, {}), (call | weights, {"gate_order": "ogfi"})))  # fmt: skip
    other |= {f"d{name}": permuted(other[f"d{name}"], "ogfi", cell.gates) for name in weights}
    assert_same(other, own)
