"""Sizes of 0: nothing to compute, but results to return, and at once."""

import numpy as np
import pytest
from support import CELLS

import fastgate


def call(cell, N, T, D, H):
    states = [None] * len(cell.states())
    weights = np.ones((D, cell.G * H), np.float32), np.ones((H, cell.G * H), np.float32)
    x = np.broadcast_to(np.float32(1), (N, T, D))
    return getattr(fastgate, f"{cell.name}_forward")(x, *states, *weights)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_without_hidden_units_dx_is_zero(cell):
    dx = np.full((2, 3, 4), 7, np.float32)
    cache = call(cell, 2, 3, 4, 0).cache
    getattr(fastgate, f"{cell.name}_backward")(None, cache, out={"dx": dx})
    assert not dx.any()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_an_empty_batch_of_any_length_ends_at_once(cell):
    result = call(cell, 0, 2**40, 4, 3)
    gradients = getattr(fastgate, f"{cell.name}_backward")(None, result.cache)
    assert result.h.shape == (0, 2**40, 3)
    assert gradients.dx.shape == (0, 2**40, 4)
    assert not gradients.dWx.any()
    assert not gradients.dWh.any()
