"""Which node is whose child, judged once, and the levels in which nodes can be computed together."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgate import _arguments

Index = NDArray[np.int64]


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
        count = np.bincount(self._parent[self._child], minlength=len(self._parent))  # children of each node
        height = _heights(self._parent, count, "parent" if children is None else "children")
        self._order: Index = np.argsort(height, kind="stable").astype(np.int64, copy=False)  # level by level
        self._ends = np.cumsum(np.bincount(height))  # of each level
        self._forests: dict[int | None, Forest] = {}
        self._freeze()

    def _freeze(self) -> None:
        for a in (self._parent, self._order):
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

    def forest(self, arity: int | None) -> Forest:
        """What a layer of this arity computes; a ValueError where a node has more children."""
        found = self._forests.get(arity)
        if found is None:
            if arity is not None and self._child.size and self._position.max() >= arity:
                k = int(self._position.argmax())
                raise ValueError(
                    f"trees: expected at most arity = {arity} children of a node, got position {self._position[k]} below node "
                    f"{self._parent[self._child[k]]}"
                )
            found = self._forests[arity] = self._listed(arity)
        return found

    def _listed(self, arity):
        place = np.empty_like(self._order)
        place[self._order] = np.arange(len(self._order))
        parent_place = place[self._parent[self._child]]
        level = np.searchsorted(self._ends, parent_place, side="right")
        lists = arity or 1
        number = (level - 1) * lists + (self._position if arity else 0)
        along = np.lexsort((self._position, parent_place, number))
        starts = np.searchsorted(number[along], np.arange(max(0, self.depth - 1) * lists + 1))
        ends = np.concatenate([[0], self._ends])
        return Forest(arity or 0, self._order, ends, starts, self._child[along], parent_place[along], self._parent)


class Forest(NamedTuple):
    """The topology as the kernels take it: fg_forest of csrc/fastgate.h. All int64, contiguous."""

    positions: int
    node: Index
    level: Index
    first_edge: Index
    child: Index
    parent_place: Index
    parent: Index


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
