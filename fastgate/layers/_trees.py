"""Which node is whose child, judged once, and the levels in which nodes can be computed together."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgate import _arguments
from fastgate.layers._types import Array

Index = NDArray[np.int64]
_NODES = 2048  # at most so many of a level at once: then what a step reads and writes stays in the caches


class Trees:
    """The topology of any number of trees over nodes 0..M-1, judged once and good for any number of calls.

        trees = Trees([[-1, -1], [-1, -1], [0, 1]])     # node 2 has the children 0 and 1
        trees = Trees(parent=[2, 2, -1])                # the same

    children : (M, K) integers. children[n] are the children of node n, -1 where there is none; a node with none is a leaf. A
        child keeps its position: (3, -1) is another tree than (-1, 3) to a layer that has weights for each position.
    parent : (M,) integers instead of children, -1 for a root. A node's children stand in the order of their numbers.

    Nodes may have any order, and the trees may be mixed. What is no set of trees (a number outside -1..M-1, a node below two
    parents, a cycle) is a ValueError that names a node; other than integers are a TypeError.

    num_nodes : M. num_trees, roots (num_trees,) : the nodes without a parent, ascending. parent : (M,). depth : the number of
        nodes on the longest way from a root to a leaf, which is the number of levels that a layer computes one after the other.
    """

    def __init__(self, children: ArrayLike | None = None, *, parent: ArrayLike | None = None):
        if (children is None) is (parent is None):
            raise ValueError(f"children: expected either children or parent, got {'neither' if parent is None else 'both'}")
        if children is not None:
            edges = _edges_of_children(children)
        else:
            edges = _edges_of_parent(parent)
        self._parent, self._child, self._position = edges.parent, edges.child, edges.position
        self._count = np.bincount(self._parent[self._child], minlength=len(self._parent))  # children of each node
        height = _heights(self._parent, self._count, "parent" if children is None else "children")
        # Level by level, in each the nodes with the most children first.
        self._order: Index = np.lexsort((-self._count, height)).astype(np.int64, copy=False)
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(self._order))
        self._ends = np.cumsum(np.bincount(height))
        self._levels: dict[int | None, list[Level]] = {}
        self._freeze()

    def _freeze(self) -> None:
        for a in (self._parent, self._order, self._place):
            a.flags.writeable = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._freeze()

    @property
    def num_nodes(self) -> int:
        """M, how many nodes all trees have together."""
        return len(self._parent)

    @property
    def num_trees(self) -> int:
        """How many trees there are."""
        return len(self.roots)

    @property
    def depth(self) -> int:
        """The number of nodes on the longest way from a root to a leaf; 0 where there is no node."""
        return len(self._ends)

    @property
    def parent(self) -> Index:
        """(M,), the parent of each node, -1 of a root; read-only."""
        return self._parent

    @property
    def roots(self) -> Index:
        """(num_trees,), the nodes without a parent, ascending."""
        return np.flatnonzero(self._parent < 0)

    def __repr__(self) -> str:
        return f"<Trees: {self.num_nodes} nodes, {self.num_trees} trees, depth {self.depth}>"

    def levels(self, arity: int | None) -> list[Level]:
        """The levels above the leaves, for a layer of this arity; a ValueError where a node has more children."""
        found = self._levels.get(arity)
        if found is None:
            if arity is not None and self._child.size and self._position.max() >= arity:
                k = int(self._position.argmax())
                raise ValueError(
                    f"trees: expected at most arity = {arity} children of a node, got position {self._position[k]} below node "
                    f"{self._parent[self._child[k]]}"
                )
            found = self._levels[arity] = self._summed_levels() if arity is None else self._positioned_levels(arity)
        return found

    def leaves(self) -> list[Index]:
        """Their numbers, some at a time."""
        return [self._order[a:b] for a, b in self._spans(0, *self._ends[:1])]

    def _positioned_levels(self, arity):
        table = np.full((arity, self.num_nodes), self.num_nodes)
        table[self._position, self._parent[self._child]] = self._child
        levels = [self._order[a:b] for a, b in self._spans(*self._ends)]
        return [PositionedLevel(nodes, np.take(table, nodes, axis=1)) for nodes in levels]

    def _summed_levels(self):
        """Edges by level, then by the child's rank among its siblings, then by the parent's place: the parents of one rank are
        the first nodes of their level."""
        above = self._place[self._parent[self._child]]
        along = np.lexsort((self._position, above))
        above, child = above[along], self._child[along]
        rank = np.arange(len(above)) - np.searchsorted(above, above)
        result = []
        for a, b in self._spans(*self._ends):
            edges = slice(*np.searchsorted(above, (a, b)))
            by_rank = np.argsort(rank[edges], kind="stable")
            sizes = np.bincount(rank[edges]).tolist()
            result.append(SummedLevel(self._order[a:b], child[edges][by_rank], above[edges][by_rank] - a, sizes))
        return result

    @staticmethod
    def _spans(*ends):
        """(first place, end) of at most _NODES nodes of one of the levels that lie between `ends`."""
        return [(a, min(a + _NODES, int(end))) for first, end in pairwise(ends) for a in range(int(first), int(end), _NODES)]


class PositionedLevel(NamedTuple):
    """Of a layer that has weights for each child's position. What belongs to children is (arity, n, H)."""

    nodes: Index  # (n,)
    table: Index  # (arity, n), the children; M where there is none

    def gather(self, states: Array) -> Array:
        return np.take(states, self.table, axis=0)

    def scatter(self, states: Array, values: Iterable[Array]) -> None:
        for children, value in zip(self.table, values, strict=True):
            states[children] += value  # but for the row of zeros, each is there once

    def joined(self, x: Array, h: Array) -> Array:
        """x and all children side by side, (n, D + arity·H)."""
        return np.concatenate([x, *h], axis=1)

    def operands(self, joined: Array, H: int) -> tuple[Array, Array]:
        """What stands left of the weights: x and all children but the last, the last child."""
        return joined[:, :-H], joined[:, -H:]

    def forget_operands(self, joined: Array, H: int) -> tuple[Array, Array]:
        """What stands left of the forget gates' weights: x, all children."""
        D = joined.shape[1] - len(self.table) * H
        return joined[:, :D], joined[:, D:]

    def operands_backward(self, step: Any, forget: Any) -> tuple[Array, Iterable[Array]]:
        """The gradients of x and h, from those of both pairs of operands (forget None: of the first)."""
        dleft, dright = step.dx, step.dh_prev
        H = dright.shape[1]
        D = dleft.shape[1] - (len(self.table) - 1) * H
        if forget is not None:
            dleft[:, :D] += forget.dx
            dleft[:, D:] += forget.dh_prev[:, :-H]
            dright += forget.dh_prev[:, -H:]
        return dleft[:, :D], [*(dleft[:, k : k + H] for k in range(D, dleft.shape[1], H)), dright]

    def of_children(self, gates: Array) -> Array:
        """Forget gates (n, arity·H) as what belongs to children, a view."""
        return gates.reshape(len(gates), len(self.table), -1).swapaxes(0, 1)

    def summed(self, values: Array) -> Array:
        total = values[0].copy()
        for value in values[1:]:
            total += value
        return total

    def spread(self, d: Array) -> Array:
        return d[None]


class SummedLevel(NamedTuple):
    """Of a layer that sums over children. What belongs to children is (number of children, H), in the order of `child`."""

    nodes: Index  # (n,)
    child: Index  # the first children of all nodes, then the second ones of all that have one, …
    above: Index  # of each, the number of its parent within the level
    sizes: list[int]  # how many nodes have a first child, a second one, …

    def gather(self, states: Array) -> Array:
        return np.take(states, self.child, axis=0)

    def scatter(self, states: Array, values: Array) -> None:
        states[self.child] += values

    def joined(self, x: Array, h: Array) -> tuple[Array, Array]:
        return x, h

    def operands(self, joined: tuple[Array, Array], H: int) -> tuple[Array, Array]:
        x, h = joined
        return x, self.summed(h)

    def forget_operands(self, joined: tuple[Array, Array], H: int) -> tuple[Array, Array]:
        x, h = joined
        return x[self.above], h

    def operands_backward(self, step: Any, forget: Any) -> tuple[Array, Array]:
        dx, dh = step.dx, self.spread(step.dh_prev)
        if forget is not None:
            dx += self.summed(forget.dx)
            dh += forget.dh_prev
        return dx, dh

    def of_children(self, gates: Array) -> Array:
        return gates

    def summed(self, values: Array) -> Array:
        first = self.sizes[0]
        total = values[:first].copy()
        for size in self.sizes[1:]:
            total[:size] += values[first : first + size]
            first += size
        return total

    def spread(self, d: Array) -> Array:
        return d[self.above]


# Nodes that are computed together. An array of states has a row for each node, and behind them one of zeros.
Level = PositionedLevel | SummedLevel


class _Edges(NamedTuple):
    parent: Index  # (M,)
    child: Index  # of each edge
    position: Index  # of the child among its siblings


def _edges_of_children(given: Any) -> _Edges:
    children = _judged("children", given, 2, "(M, K)")
    M = len(children)
    above, position = np.nonzero(children >= 0)
    child = children[above, position]
    parent = np.full(M, -1)
    parent[child] = above
    wrong = parent[child] != above
    if not wrong.any() and len(child) > M - np.count_nonzero(parent < 0):  # twice below one parent
        wrong[np.setdiff1d(np.arange(len(child)), np.unique(child, return_index=True)[1])] = True
    if wrong.any():
        k = int(wrong.argmax())
        raise ValueError(
            f"children: expected each node below one parent, once, got node {child[k]} below {above[k]} and {parent[child[k]]}"
        )
    return _Edges(parent, child, position)


def _edges_of_parent(given: Any) -> _Edges:
    parent = _judged("parent", given, 1, "(M,)")
    child = np.argsort(parent, kind="stable")
    child = child[np.count_nonzero(parent < 0) :]
    above = parent[child]
    return _Edges(parent, child, np.arange(len(child)) - np.searchsorted(above, above))


def _judged(name, given, ndim, letters):
    """Integers -1..M-1 as a private int64 array, M = len."""
    a = _arguments._integers(name, given)
    if a.ndim != ndim:
        raise ValueError(f"{name}: expected {letters}, got {a.shape}")
    M = len(a)
    wrong = (a < -1) | (a >= M)
    if wrong.any():
        place = tuple(int(k) for k in np.unravel_index(int(wrong.argmax()), a.shape))
        words = f"node {place[0]}" if ndim == 1 else f"{place}"
        raise ValueError(f"{name}: expected -1..M-1 = -1..{M - 1}, got {a[place]} at {words}")
    return a.astype(np.int64, order="C")


def _heights(parent, count, name):
    """(M,), 0 for a leaf, else 1 + the largest of the children: in waves, a node when all its children are done."""
    height, pending = np.zeros(len(parent), np.int64), count.copy()
    wave, level, seen = np.flatnonzero(count == 0), 0, 0
    while wave.size:
        height[wave] = level
        seen += wave.size
        above = parent[wave]
        above = above[above >= 0]
        np.subtract.at(pending, above, 1)
        wave = np.unique(above)
        wave = wave[pending[wave] == 0]
        level += 1
    if seen < len(parent):
        raise ValueError(f"{name}: expected trees, got a cycle through node {int((pending > 0).argmax())}")
    return height
