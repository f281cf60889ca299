"""Recursive layers: a cell over trees instead of sequences. The kernel is csrc/tree.inc."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fastgate import _arguments, _kernels
from fastgate.layers import _initial, _judge
from fastgate.layers._parameters import Parameters
from fastgate.layers._trees import Trees
from fastgate.layers._types import Array, Rng, Shapes
from fastgate.reference.rnn import OPTIONS

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
    """What forward keeps for backward. It refers to x and the layer's weights without copying them: write into them after
    backward, not before."""

    __slots__ = ("_layer", "_run", "_trees", "_x")

    def __init__(self, layer: Tree, trees: Trees, x: Array, run: Any):
        self._layer = layer
        self._trees = trees
        self._x = x
        self._run = run

    @property
    def nbytes(self) -> int:
        """Bytes kept besides x and the weights."""
        return self._run.cache.size

    def __repr__(self) -> str:
        return f"<cache of {type(self._layer).__name__}.forward: M={self._trees.num_nodes}, {self.nbytes} bytes>"


class Tree(Parameters, Generic[F]):
    """The body of TreeRNN and TreeLSTM; their docstrings are the manual."""

    _cell: ClassVar[str]  # whose gate math it is
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
        forest = trees.forest(self.arity)
        M, D, H = trees.num_nodes, self.input_size, self.hidden_size
        x = self._judged_rows("x", x, ("M", "D"), (M, D))
        W = self._weights
        run = _kernels.TreeRun(_kernels.CELLS[self._cell], x, forest, W["Wx"], W["Wh"], W.get("b"), self._option(), training)
        states = [np.empty((M, H), self._dtype) for _ in self._states]
        run.forward(*states, *[None] * (2 - len(states)))
        return self._Forward._make((*states, TreeCache(self, trees, x, run) if training else None))

    def _run_backward(self, upstream, cache, accumulate, need_dx):
        accumulate = _arguments.flag("accumulate", accumulate)
        need_dx = _arguments.flag("need_dx", need_dx)
        if type(cache) is not TreeCache or cache._layer is not self:
            ours = type(cache) is TreeCache
            got = f"that of another {type(cache._layer).__name__}" if ours else _arguments.cache_in_words(cache)
            hint = "; call forward with training=True" if cache is None else ""
            raise ValueError(f"cache: expected the cache of this layer's forward, got {got}{hint}")
        M, H = cache._trees.num_nodes, self.hidden_size
        given = [
            None if d is None else self._judged_rows(f"d{name}", d, ("M", "H"), (M, H))
            for name, d in zip(self._states, upstream, strict=True)
        ]
        dx = np.empty((M, self.input_size), self._dtype) if need_dx else None

        overlaps = any(a is not None and np.may_share_memory(a, self._gradients) for a in (cache._x, *given))

        def fill(flat):
            fresh = np.empty_like(flat) if overlaps else flat  # which is written before all inputs are read
            d = self._views(fresh)
            cache._run.backward(*given, *[None] * (2 - len(given)), dx, d["Wx"], d["Wh"], d.get("b"))
            if overlaps:
                flat[...] = fresh

        self._fill_gradients(accumulate, fill)
        return TreeGradients(dx)

    def _judged_rows(self, name: str, a: Any, letters: tuple[str, ...], sizes: tuple[int, ...]) -> Array:
        """As the kernels read it."""
        return _arguments._direct(_judge.array(name, a, self._dtype, letters, sizes), self._dtype, rows=True)

    def _option(self) -> int:
        """fg_sequence.option."""
        return 0


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

    A call computes level by level, all nodes whose children are done, of all trees. Sizes that are no integers > 0 and options
    that do not exist are a ValueError or TypeError that names the argument. Pollack (1990), Socher et al. (2011); Goodfellow
    et al., Deep Learning, section 10.6.
    """

    _kind, _cell, _gates, _states, _Forward = "TreeRNN", "rnn", "a", ("h",), TreeRNNForward

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

    def _option(self):
        return OPTIONS["activation"].index(self._config["activation"])


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

    A call computes level by level, all nodes whose children are done, of all trees. Sizes that are no integers > 0 and options
    that do not exist are a ValueError or TypeError that names the argument.
    """

    _kind, _cell, _gates, _states, _Forward = "TreeLSTM", "lstm", "ifgo", ("h", "c"), TreeLSTMForward

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
