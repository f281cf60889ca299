"""Recursive layers: a cell over trees instead of sequences, level by level from the leaves to the roots."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fastgate import _arguments
from fastgate.layers import _initial, _judge
from fastgate.layers._parameters import Parameters
from fastgate.layers._trees import Level, Trees
from fastgate.layers._types import Array, Rng, Shapes
from fastgate.lstm import lstm_step_backward, lstm_step_forward
from fastgate.reference.rnn import OPTIONS
from fastgate.rnn import rnn_step_backward, rnn_step_forward

_OPEN = 100.0  # sigmoid rounds to 1 in either dtype, at every instruction-set level
F = TypeVar("F")  # what forward returns


class TreeRNNForward(NamedTuple):
    """What forward of TreeRNN returns."""

    h: Array  # (M, H)
    cache: TreeCache | None


class TreeLSTMForward(NamedTuple):
    """What forward of TreeLSTM returns."""

    h: Array  # (M, H)
    c: Array  # (M, H)
    cache: TreeCache | None


class TreeGradients(NamedTuple):
    """What backward returns; the weights' gradients are in layer.gradients."""

    dx: Array | Any  # (M, input_size); None with need_dx=False


class TreeCache:
    """What forward keeps for backward. It refers to the layer's weights without copying them: write into them after backward,
    not before."""

    __slots__ = ("_kept", "_layer", "_operands", "_trees")

    def __init__(self, layer: Tree, trees: Trees, operands: dict[str, Array]):
        self._layer = layer
        self._trees = trees
        self._operands = operands  # the weights as the step functions take them
        self._kept: list[tuple[Any, ...]] = []  # of each level

    @property
    def nbytes(self) -> int:
        """Bytes kept besides the weights: what the step functions' caches hold and refer to, forget gates, children's c."""
        total, arrays = 0, {}
        for thing in (thing for kept in self._kept for thing in kept):
            call = getattr(thing, "call", None)
            total += thing.nbytes if call else 0
            for a in (call.x, call.h0, call.c0) if call else (thing,):
                whole = a if a is None or a.base is None else a.base  # of which several are views
                arrays[id(whole)] = whole
        return total + sum(a.nbytes for a in arrays.values() if a is not None)

    def __repr__(self) -> str:
        return f"<cache of {type(self._layer).__name__}.forward: M={self._trees.num_nodes}, {self.nbytes} bytes>"


class Tree(Parameters, Generic[F]):
    """The body of TreeRNN and TreeLSTM; their docstrings are the manual."""

    _gates: ClassVar[str]
    _states: ClassVar[tuple[str, ...]]  # h, or h and c
    _Forward: ClassVar[Any]

    @classmethod
    def _judged_sizes(cls, input_size, hidden_size, arity, b) -> dict[str, Any]:
        return {
            "input_size": _judge.size("input_size", input_size),
            "hidden_size": _judge.size("hidden_size", hidden_size),
            "arity": None if arity is None else _judge.size("arity", arity),
            "b": _arguments.flag("b", b),
        }

    @classmethod
    def _number_of_arrays(cls, config: dict[str, Any]) -> int:
        return 2 + config["b"]

    def _widths(self) -> tuple[int, int, int, int, int]:
        """D, H, children that have weights of their own, gates of a node, columns of Wh in blocks of H."""
        K, G = self._config["arity"] or 1, len(self._gates)
        return self.input_size, self.hidden_size, K, G, G + (K - 1) * self._gates.count("f")

    def _count(self) -> int:
        D, H, K, G, columns = self._widths()
        return H * (G * (D + self._config["b"]) + K * H * columns)

    def _sizes_in_words(self) -> str:
        return ", ".join(f"{name} = {self._config[name]}" for name in ("input_size", "hidden_size", "arity"))

    def _shapes(self) -> Shapes:
        D, H, K, G, columns = self._widths()
        GH, CH, KH = ("H" if n == 1 else f"{n}H" for n in (G, columns, K))
        shapes: Shapes = {"Wx": (("D", GH), (D, G * H)), "Wh": ((KH, CH), (K * H, columns * H))}
        return shapes | ({"b": ((GH,), (G * H,))} if self._config["b"] else {})

    def _draw(self) -> None:
        """Fresh weights from the layer's generator, gate by gate, in Wh child by child."""
        D, H, K, G, columns = self._widths()
        for g in range(G):
            self._weights["Wx"][:, g * H : (g + 1) * H] = _initial.glorot_uniform(self._rng, D, H)
        for g in range(columns):
            for k in range(K):
                block = self._weights["Wh"][k * H : (k + 1) * H, g * H : (g + 1) * H]
                block[...] = _initial.orthogonal(self._rng, H, H) / np.sqrt(K)
        if "f" in self._gates and self._config["b"]:
            f = self._gates.index("f")
            self._weights["b"][f * H : (f + 1) * H] = 1

    @property
    def input_size(self) -> int:
        """D, the width of x."""
        return self._config["input_size"]

    @property
    def hidden_size(self) -> int:
        """H, the width of a state."""
        return self._config["hidden_size"]

    @property
    def arity(self) -> int | None:
        """The most children of a node, each position with weights of its own; None: any number, summed."""
        return self._config["arity"]

    def forward(self, x: Array, trees: Trees, *, training: bool = True) -> F:
        """Run the layer over all nodes; the states of each node in the order of x, then cache.

        x : (M, D), a row for each node, any strides. trees : which node is whose child.
        training : False keeps nothing for backward, cache is None.

        Results (M, H) are the states of all nodes; those of whole trees are in the rows trees.roots. A node's bits depend on
        the values at and below it alone: not on the other trees, the numbers of the nodes, or the number of threads. (A sum
        over three or more children is taken in their order, which of Trees(parent=) is that of their numbers.) Many threads may
        call it at once. What does not fit is a ValueError or TypeError that names the argument, before anything is computed.
        """
        training = _arguments.flag("training", training)
        if not isinstance(trees, Trees):
            raise TypeError(f"trees: expected fastgate.layers.Trees, got {_arguments._kind(trees)}; pass Trees(children)?")
        levels = trees.levels(self.arity)
        M, D, H = trees.num_nodes, self.input_size, self.hidden_size
        x = _judge.array("x", x, self._dtype, ("M", "D"), (M, D))
        states = {name: np.zeros((M + 1, H), self._dtype) for name in self._states}  # the last is of a child that is not there
        cache = TreeCache(self, trees, self._operands())
        with np.errstate(all="ignore"):  # as silent about infinities as the kernels are
            for level in (*trees.leaves(), *levels):
                nodes = level if isinstance(level, np.ndarray) else level.nodes
                rows = np.take(x, nodes, axis=0).astype(self._dtype, order="C", copy=False)
                here = {name: np.empty((len(nodes), H), self._dtype) for name in states}
                if isinstance(level, np.ndarray):
                    kept = (self._step(*self._halves(rows), None, "leaf_", here, cache._operands, training),)
                else:
                    kept = self._level_forward(level, rows, states, here, cache._operands, training)
                for name, a in states.items():
                    a[nodes] = here[name]
                if training:
                    cache._kept.append(kept)
        return self._Forward._make((*(a[:M] for a in states.values()), cache if training else None))

    def _run_backward(self, upstream, cache, accumulate, need_dx):
        accumulate = _arguments.flag("accumulate", accumulate)
        need_dx = _arguments.flag("need_dx", need_dx)
        if type(cache) is not TreeCache or cache._layer is not self:
            ours = type(cache) is TreeCache
            got = f"that of another {type(cache._layer).__name__}" if ours else _arguments.cache_in_words(cache)
            hint = "; call forward with training=True" if cache is None else ""
            raise ValueError(f"cache: expected the cache of this layer's forward, got {got}{hint}")
        trees, H = cache._trees, self.hidden_size
        M, dstates = trees.num_nodes, {}
        for name, d in zip(self._states, upstream, strict=True):
            dstates[name] = np.zeros((M + 1, H), self._dtype)
            if d is not None:
                d = _judge.array(f"d{name}", d, self._dtype, ("M", "H"), (M, H))
                dstates[name][:M] = d
        dx = np.empty((M, self.input_size), self._dtype) if need_dx else None

        def fill(flat):
            sums = {name: np.zeros_like(a) for name, a in cache._operands.items()}
            levels = (*trees.leaves(), *trees.levels(self.arity))
            with np.errstate(all="ignore"):
                for level, kept in zip(reversed(levels), reversed(cache._kept), strict=True):
                    nodes = level if isinstance(level, np.ndarray) else level.nodes
                    dhere = {name: np.take(d, nodes, axis=0) for name, d in dstates.items()}
                    if isinstance(level, np.ndarray):
                        of_leaves = self._step_backward(dhere, kept[0], "leaf_", sums)
                        found = np.concatenate([of_leaves.dx, of_leaves.dh_prev], axis=1)[:, : self.input_size]
                    else:
                        found = self._level_backward(level, dhere, dstates, kept, sums)
                    if dx is not None:
                        dx[nodes] = found
                self._gradients_of(sums, self._views(flat))

        self._fill_gradients(accumulate, fill)
        return TreeGradients(dx)

    def _operands(self) -> dict[str, Array]:
        """The weights as the step functions take them."""
        raise NotImplementedError

    def _gradients_of(self, sums: dict[str, Array], grads: Any) -> None:
        """The gradients of the weights from those of _operands()."""
        raise NotImplementedError

    def _halves(self, x: Array) -> tuple[Array, Array]:
        """x of the leaves, cut in two for a step function whose h_prev has H columns: the sum of both products is x Wx. So no
        product with an h_prev of zeros is formed."""
        H = self.hidden_size
        if x.shape[1] < H:
            x = np.concatenate([x, np.zeros((len(x), H - x.shape[1]), x.dtype)], axis=1)
        return x[:, :-H], x[:, -H:]

    def _leaf_weights(self, left: Array) -> dict[str, Array]:
        """The rows of x in `left`, cut likewise."""
        D, H = self.input_size, self.hidden_size
        rows = left[:D] if D >= H else np.concatenate([left[:D], np.zeros((H - D, left.shape[1]), left.dtype)])
        return {"leaf_left": rows[:-H], "leaf_right": rows[-H:]}

    def _add_leaf_gradients(self, sums: dict[str, Array]) -> None:
        """To the rows of x in sums["left"]."""
        D = self.input_size
        sums["left"][:D] += np.concatenate([sums["leaf_left"], sums["leaf_right"]])[:D]

    def _step(self, left, right, c_prev, of: str, here, W, training) -> Any:
        """A call of a step function with the weights W[of + "left"] and W[of + "right"], into the states `here`; its cache."""
        raise NotImplementedError

    def _step_backward(self, dhere, cache, of: str, sums) -> Any:
        """The gradients of that call; those of the weights are added to `sums`."""
        raise NotImplementedError

    def _level_forward(self, level: Level, x, states, here, W, training) -> tuple[Any, ...]:
        """Writes the states of a level `here`, from those of all nodes below it; returns what backward needs."""
        raise NotImplementedError

    def _level_backward(self, level: Level, dhere, dstates, kept, sums) -> Any:
        """Adds to the gradients of the children's states and of the weights; returns dx."""
        raise NotImplementedError


def _add(sums: dict[str, Array], gradients: Any, **names: str) -> None:
    """sums[name] += the gradient of this name of a step function."""
    for ours, theirs in names.items():
        if ours in sums:
            sums[ours] += getattr(gradients, theirs)


class TreeRNN(Tree[TreeRNNForward]):
    """The recursive net: one cell over trees, from the leaves to the roots, the same weights at every node.

    With arity K, a node has at most K children, each position with weights of its own (K = 2: binary trees); a child that is
    not there counts as h = 0:

        h = activation(x Wx + h_1 Wh_1 + … + h_K Wh_K + b)          Wh_1 … Wh_K : the K blocks of H rows of Wh

    With arity None, any number of children, in no order, by the sum of their states:

        h = activation(x Wx + (sum_k h_k) Wh + b)

    A leaf is a node without children. Each node has an input row x; where only leaves have one, the others are zeros.

    input_size, hidden_size : D, H
    arity : K, or None
    b : whether there is a bias
    activation : "tanh", "relu", "sigmoid" or "identity"
    dtype : float32 or float64, that of all arrays
    rng : a numpy Generator, a seed, or None: draws the weights

    Weights are arrays of one flat array, in this order, without gaps:

        Wx (D, H)    Wh (K·H, H)    b (H,)

    `parameters` is that array and `weights` the views by name, `gradients` and `grads` the same for the gradients. Fresh
    weights: Wx uniform (Glorot and Bengio 2010), each block of Wh orthogonal (Saxe et al. 2014) divided by √K, b 0.

    forward, backward : over Trees, which are judged once and used for many calls. state_dict, load_state_dict, save, load :
    weights as arrays, as a file. A layer pickles and copies, with gradients and generator.

    A level, all nodes whose children are done, is one call of rnn_step_forward for every 2,048 nodes, so a call takes as many
    steps as the tallest tree has nodes from root to leaf, or some more. Sizes that are no integers > 0 and options that do not
    exist are a ValueError or TypeError that names the argument. Pollack (1990), Socher et al. (2011); Goodfellow et al., Deep
    Learning, section 10.6.
    """

    _kind, _gates, _states, _Forward = "TreeRNN", "a", ("h",), TreeRNNForward

    @classmethod
    def _judged(cls, input_size, hidden_size, arity, b, activation, dtype) -> dict[str, Any]:
        config = cls._judged_sizes(input_size, hidden_size, arity, b)
        activation = _judge.option("activation", activation, OPTIONS["activation"], "")
        return config | {"activation": activation, "dtype": _judge.dtype(dtype).name}

    def __init__(
        self, input_size: int, hidden_size: int, *, arity: int | None = 2, b: bool = True,
        activation: Literal["tanh", "relu", "sigmoid", "identity"] = "tanh", dtype: DTypeLike = np.float32, rng: Rng = None,
    ):  # fmt: skip
        self._build(self._judged(input_size, hidden_size, arity, b, activation, dtype), rng)
        self._draw()

    def backward(self, dh: Array | None, cache: Any, *, accumulate: bool = False, need_dx: bool = True) -> TreeGradients:
        """The gradients of forward; returns (dx,) and writes those of the weights into `gradients`.

        dh : (M, H) or None = zeros, the gradient of the loss with respect to the states of all nodes: zeros where the loss does
            not see a node. cache : from this layer's forward, good for any number of calls.
        accumulate : add to `gradients` instead of overwriting them. need_dx : False: dx is None.

        dx : (M, D). Many threads may call it at once: `gradients` are always those of whole calls. Backpropagation through
        structure (Goller and Küchler 1996). Errors as in forward; a call ended by Ctrl-C leaves anything in `gradients`.
        """
        return self._run_backward((dh,), cache, accumulate, need_dx)

    def _operands(self):
        D, H, K, _, _ = self._widths()
        rows = self._parameters[: (D + K * H) * H].reshape(-1, H)  # Wx and Wh, which adjoin
        operands = {"left": rows[: D + (K - 1) * H], "right": rows[D + (K - 1) * H :]}
        return operands | self._leaf_weights(rows) | ({"b": self._weights["b"]} if self._config["b"] else {})

    def _gradients_of(self, sums, grads):
        D = self.input_size
        self._add_leaf_gradients(sums)
        grads["Wx"][...] = sums["left"][:D]
        np.concatenate([sums["left"][D:], sums["right"]], out=grads["Wh"])
        if self._config["b"]:
            grads["b"][...] = sums["b"]

    def _step(self, left, right, c_prev, of, here, W, training):
        return rnn_step_forward(
            left, right, W[f"{of}left"], W[f"{of}right"], W.get("b"), activation=self._config["activation"], training=training,
            out=here["h"],
        ).cache  # fmt: skip

    def _step_backward(self, dhere, cache, of, sums):
        found = rnn_step_backward(dhere["h"], cache)
        _add(sums, found, **{f"{of}left": "dWx", f"{of}right": "dWh", "b": "db"})
        return found

    def _level_forward(self, level, x, states, here, W, training):
        joined = level.joined(x, level.gather(states["h"]))
        return (self._step(*level.operands(joined, self.hidden_size), None, "", here, W, training),)

    def _level_backward(self, level, dhere, dstates, kept, sums):
        dx, dh = level.operands_backward(self._step_backward(dhere, kept[0], "", sums), None)
        level.scatter(dstates["h"], dh)
        return dx


class TreeLSTM(Tree[TreeLSTMForward]):
    """Long short-term memory over trees: a forget gate for each child. Tai, Socher and Manning (2015).

    Gates "ifgo", weights multiply from the right. With arity K (their N-ary form, equations 9 to 14; K = 2: binary trees), a
    node has at most K children, each position with weights of its own; a child that is not there counts as h = c = 0:

        i, f_k, o = sigmoid(a_i), sigmoid(a_fk), sigmoid(a_o);   g = tanh(a_g)      k = 1 … K
        a_i  = x Wx_i + h_1 Wh_1,i + … + h_K Wh_K,i + b_i                           a_g, a_o likewise
        a_fk = x Wx_f + h_1 Wh_1,fk + … + h_K Wh_K,fk + b_f                         x Wx_f + b_f is that of all forget gates
        c = i * g + f_1 * c_1 + … + f_K * c_K
        h = o * tanh(c)

    With arity None (their child-sum form, equations 2 to 8), any number of children, in no order:

        a_i  = x Wx_i + (sum_k h_k) Wh_i + b_i                                      a_g, a_o likewise
        a_fk = x Wx_f + h_k Wh_f + b_f
        c = i * g + sum_k f_k * c_k

    A leaf is a node without children. Each node has an input row x; where only leaves have one, the others are zeros.

    input_size, hidden_size : D, H
    arity : K, or None
    b : whether there is a bias
    dtype : float32 or float64, that of all arrays
    rng : a numpy Generator, a seed, or None: draws the weights

    Weights are arrays of one flat array, in this order, without gaps:

        Wx (D, 4H), columns i f g o    Wh (K·H, (3 + K)·H), columns i f_1 … f_K g o    b (4H,)            child-sum: K = 1

    `parameters` is that array and `weights` the views by name, `gradients` and `grads` the same for the gradients. Fresh
    weights: Wx uniform (Glorot and Bengio 2010), each (H, H) block of Wh orthogonal (Saxe et al. 2014) divided by √K, b 0 but
    for that of the forget gates, 1.

    forward, backward : over Trees, which are judged once and used for many calls. state_dict, load_state_dict, save, load :
    weights as arrays, as a file. A layer pickles and copies, with gradients and generator.

    A level, all nodes whose children are done, is two calls for every 2,048 nodes: rnn_step_forward makes the forget gates,
    lstm_step_forward the rest, from c_prev = sum_k f_k c_k with a forget gate of 1. So an infinite x, whose product with
    weights of 0 is NaN, makes its node and all above it NaN. Sizes that are no integers > 0 and options that do not exist are a
    ValueError or TypeError that names the argument.
    """

    _kind, _gates, _states, _Forward = "TreeLSTM", "ifgo", ("h", "c"), TreeLSTMForward

    @classmethod
    def _judged(cls, input_size, hidden_size, arity, b, dtype) -> dict[str, Any]:
        return cls._judged_sizes(input_size, hidden_size, arity, b) | {"dtype": _judge.dtype(dtype).name}

    def __init__(
        self, input_size: int, hidden_size: int, *, arity: int | None = 2, b: bool = True, dtype: DTypeLike = np.float32,
        rng: Rng = None,
    ):  # fmt: skip
        self._build(self._judged(input_size, hidden_size, arity, b, dtype), rng)
        self._draw()

    def backward(
        self, dh: Array | None, cache: Any, dc: Array | None = None, *, accumulate: bool = False, need_dx: bool = True
    ) -> TreeGradients:
        """The gradients of forward; returns (dx,) and writes those of the weights into `gradients`.

        dh, dc : (M, H), each or None = zeros, the gradients of the loss with respect to the states of all nodes: zeros where
            the loss does not see a node. cache : from this layer's forward, good for any number of calls.
        accumulate : add to `gradients` instead of overwriting them. need_dx : False: dx is None.

        dx : (M, D). Many threads may call it at once: `gradients` are always those of whole calls. Backpropagation through
        structure (Goller and Küchler 1996). Errors as in forward; a call ended by Ctrl-C leaves anything in `gradients`.
        """
        return self._run_backward((dh, dc), cache, accumulate, need_dx)

    def _operands(self):
        """left, right, b of the step whose forget gate is open; forget_x, forget_h, forget_b of the forget gates."""
        _, H, K, _, _ = self._widths()
        Wx, Wh, b = (self._weights.get(name) for name in ("Wx", "Wh", "b"))
        rows = (K - 1) * H

        def opened(W, forget=H):
            """The columns of i, g, o, and zeros for f."""
            result = np.zeros((*W.shape[:-1], 4 * H), self._dtype)
            result[..., :H], result[..., 2 * H :] = W[..., :H], W[..., H + forget :]
            return result

        open_b = np.zeros(4 * H, self._dtype) if b is None else opened(b)
        open_b[H : 2 * H] = _OPEN
        operands = {
            "left": np.concatenate([opened(Wx), opened(Wh[:rows], K * H)]),
            "right": opened(Wh[rows:], K * H),
            "b": open_b,
            "forget_x": np.tile(Wx[:, H : 2 * H], K),
            "forget_h": np.ascontiguousarray(Wh[:, H : H + K * H]),
        }
        operands |= self._leaf_weights(operands["left"])
        return operands | ({} if b is None else {"forget_b": np.tile(b[H : 2 * H], K)})

    def _gradients_of(self, sums, grads):
        D, H, K, _, _ = self._widths()

        def closed(d, opened, forget):
            np.concatenate([opened[..., :H], forget, opened[..., 2 * H :]], axis=-1, out=d)

        def shared(forget):
            """Of the weights that all forget gates have in common."""
            return forget.reshape(*forget.shape[:-1], K, H).sum(axis=-2)

        self._add_leaf_gradients(sums)
        closed(grads["Wx"], sums["left"][:D], shared(sums["forget_x"]))
        closed(grads["Wh"], np.concatenate([sums["left"][D:], sums["right"]]), sums["forget_h"])
        if self._config["b"]:
            closed(grads["b"], sums["b"], shared(sums["forget_b"]))

    def _step(self, left, right, c_prev, of, here, W, training):
        return lstm_step_forward(
            left, right, c_prev, W[f"{of}left"], W[f"{of}right"], W["b"], training=training,
            out={"h_next": here["h"], "c_next": here["c"]},
        ).cache  # fmt: skip

    def _step_backward(self, dhere, cache, of, sums):
        found = lstm_step_backward(dhere["h"], dhere["c"], cache)
        _add(sums, found, **{f"{of}left": "dWx", f"{of}right": "dWh", "b": "db"})
        return found

    def _level_forward(self, level, x, states, here, W, training):
        H, c = self.hidden_size, level.gather(states["c"])
        joined = level.joined(x, level.gather(states["h"]))
        f, of_forget = rnn_step_forward(
            *level.forget_operands(joined, H), W["forget_x"], W["forget_h"], W.get("forget_b"), activation="sigmoid",
            training=training,
        )  # fmt: skip
        f = level.of_children(f)
        of_step = self._step(*level.operands(joined, H), level.summed(f * c), "", here, W, training)
        return of_step, of_forget, f, c

    def _level_backward(self, level, dhere, dstates, kept, sums):
        of_step, of_forget, f, c = kept
        step = self._step_backward(dhere, of_step, "", sums)
        dc = level.spread(step.dc_prev)
        df = np.empty((f.shape[-2], f.size // f.shape[-2]), f.dtype)
        np.multiply(dc, c, out=level.of_children(df))
        forget = rnn_step_backward(df, of_forget)
        _add(sums, forget, forget_x="dWx", forget_h="dWh", forget_b="db")
        dx, dh = level.operands_backward(step, forget)
        level.scatter(dstates["h"], dh)
        level.scatter(dstates["c"], dc * f)
        return dx
