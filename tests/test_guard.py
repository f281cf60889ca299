"""No kernel touches memory beside its arrays: every row of every argument and output lies against a forbidden page."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from support import REACHING, prepare, random_call, run, upstream, variant_id

import fastgate
from fastgate import _kernels

guard = pytest.importorskip("guard", reason="needs mmap and mprotect", exc_type=(ImportError, AttributeError, TypeError))

# N, T: where weights are read as they lie, packed, and multiplied for many rows
COUNTS = [(1, 1), (3, 2), (2, 3), (33, 1)]
WIDTHS = [1, 7, 8, 9, 15, 16, 17, 33, 64, 144]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def in_subprocess(*arguments):
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("side", guard.SIDES)
@pytest.mark.parametrize("variant", [variant_id(variant) for variant in REACHING])
def test_kernels_stay_inside(variant, side):
    found = in_subprocess(variant, side)
    assert found.returncode == 0, f"{found.stdout[-200:]} {found.stderr[-2000:]}"


@pytest.mark.parametrize("side", guard.SIDES)
@pytest.mark.parametrize("what", ["read", "write"])
def test_the_guard_bites(what, side):
    assert in_subprocess(what, side).returncode != 0


def touch(what, side):
    """One element outside a row."""
    a = guard.guarded(np.ones((2, 3, 5), np.float32), side)
    place = a[1, 1].ctypes.data + (-4 if side == "before" else 5 * 4)
    outside = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 1).from_address(place))
    if what == "read":
        print(outside[0])
    else:
        outside[0] = 1


def check(cell, options, dtype, N, T, D, H, step, side):
    rng = np.random.default_rng([N, T, D, H, step])
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype, step=step)
    gradients = upstream(cell, rng, call, step)
    expected = run(cell, fastgate, call, gradients, step, **dict(options))
    for columns_first in (False, True):

        def placed(name, a, columns_first=columns_first):
            if columns_first and name.removeprefix("d") in ("Wx", "Wh"):
                return guard.guarded(a.T, side).T
            return guard.guarded(a, side)

        arguments, dresults = ({name: placed(name, a) for name, a in arrays.items()} for arrays in (call, gradients))
        out = {name: placed(name, np.full_like(a, np.nan)) for name, a in expected.items()}
        forward, backward = ("step_forward", "step_backward") if step else ("forward", "backward")
        outputs = {name: a for name, a in out.items() if not name.startswith("d")}
        cache = cell.function(fastgate, forward)(**arguments, **dict(options), out=outputs).cache
        dout = {name: a for name, a in out.items() if name.startswith("d")}
        cell.function(fastgate, backward)(cache=cache, **dresults, out=dout)
        for name, a in expected.items():
            np.testing.assert_array_equal(out[name], a, err_msg=name)

        prepared, arguments = prepare(cell, arguments, **dict(options))
        outputs = {name: placed(name, np.full_like(a, np.nan)) for name, a in outputs.items()}
        if step and cell.has_c:
            prepared.step(**arguments, out=tuple(outputs.values()))
        else:
            (prepared.step if step else prepared.forward)(**arguments, out=outputs)
        for name, a in outputs.items():
            np.testing.assert_array_equal(a, expected[name], err_msg=f"prepared {name}")


def check_ragged(cell, options, dtype, N, T, D, H, side):
    """Flat rows of lengths T, T - 1, …, of which none is beside another one."""
    rng = np.random.default_rng([N, T, D, H])
    call = random_call(cell, rng, N=N, T=T, D=D, H=H, dtype=dtype)
    gradients = upstream(cell, rng, call)
    lengths = T - np.arange(N) % (T + 1)
    expected = run(cell, fastgate, call, gradients, lengths=lengths, **dict(options))
    rows = np.arange(T) < lengths[:, None]
    for arrays, names in ((call, ["x"]), (gradients, ["dh"]), (expected, ["h", "dx"])):
        arrays |= {name: arrays[name][rows] for name in names}
    arguments, dresults = ({name: guard.guarded(a, side) for name, a in arrays.items()} for arrays in (call, gradients))
    out = {name: guard.guarded(np.full_like(a, np.nan), side) for name, a in expected.items()}
    dout = {name: out.pop(name) for name in list(out) if name.startswith("d")}
    offsets = np.append(0, lengths.cumsum())
    cache = cell.function(fastgate, "ragged_forward")(**arguments, **dict(options), offsets=offsets, out=out).cache
    cell.function(fastgate, "ragged_backward")(cache=cache, **dresults, out=dout)
    for name, a in (out | dout).items():
        np.testing.assert_array_equal(a, expected[name], err_msg=name)


def main(what, side):
    if what in ("read", "write"):
        return touch(what, side)
    _kernels._prefill(0xFF)
    [(cell, options)] = [variant for variant in REACHING if variant_id(variant) == what]
    for dtype, (N, T), H in itertools.product((np.float32, np.float64), COUNTS, WIDTHS):
        D = WIDTHS[(WIDTHS.index(H) + N + T + 3) % len(WIDTHS)]
        for step in (False, True) if T == 1 else (False,):
            print(dtype.__name__, f"N{N} T{T} D{D} H{H} step={step}", flush=True)
            check(cell, options, dtype, N, T, D, H, step, side)
        check_ragged(cell, options, dtype, N, T, D, H, side)


if __name__ == "__main__":
    main(*sys.argv[1:])
