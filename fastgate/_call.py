"""Between judgement and kernel: allocates what a call returns, orders ragged rows, runs the kernel. No arithmetic but
one sum."""

from typing import NamedTuple

import numpy as np

from fastgate import _arguments, _checkpoints, _kernels
from fastgate.reference.sequence import gradients_type


class Option(NamedTuple):
    """The options of a cell as its kernel reads them: the fields of these names in fg_sequence."""

    option: int = 0
    cell_clip: float = 0.0
    preact_clip: float = 0.0
    grad_clip: float = 0.0
    eps: float = 0.0


PLAIN = Option()
NORM = tuple(f"d{name}" for name in _arguments.Norm._fields)


def clipping(option, grad_clip):
    """The option with this bound of da, or as it is where there is none."""
    bound = _arguments.bound("grad_clip", grad_clip)
    return option if bound is None else option._replace(grad_clip=bound)


class Cache:
    """What a forward call keeps for backward. It refers to x and the weights without copying them: write into them
    after backward, not before. The states are its own."""

    __slots__ = ("_call", "_run")

    def __init__(self, call, run):
        self._call = call
        self._run = run

    @property
    def call(self):
        """The judged arguments, _arguments.Forward."""
        return self._call

    def __repr__(self):
        c = self.call
        sizes = f"N={c.N}, {f'T={c.T}, ' * (not c.step)}D={c.D}, H={c.H}{f', P={c.P}' * (c.Wr is not None)}"
        return f"<cache of {_arguments.function_name(c)}: {sizes}, {c.dtype}, {self.nbytes} bytes>"

    @property
    def nbytes(self):
        """Bytes kept besides x and the weights."""
        return self._run.cache.size

    @property
    def recomputed(self):
        """How often backward runs the steps of forward again, on average: 0.0 where all is kept, else at least 1.0."""
        return self._run.recomputed / max(self.call.T, 1)


class Results:
    """The arrays that a call returns, in order: new ones, or those of `out=`. Where a kernel cannot write an array
    of `out=` as it lies in memory, it writes a new one, which finish() copies."""

    __slots__ = ("arrays", "out", "pending")

    def __init__(self, out):
        self.out = out or {}
        self.arrays = []
        self.pending = []

    def add(self, name, new, fits=_arguments.in_place):
        """The array for the kernel: the caller's where it fits, else `new`."""
        given = self.out.get(name)
        if given is None:
            self.arrays.append(new)
            return new
        self.arrays.append(given)
        if fits(given):
            return given
        self.pending.append((given, new))
        return new

    def finish(self):
        for given, new in self.pending:
            given[...] = new
        return self.arrays


def forward(call, kernel, option=PLAIN):
    """(outputs in order …, cache) of a judged forward call. `kernel`: the name of the cell in csrc/cells.def."""
    return _forward(call, kernel, option, None)


def forward_prepared(call, prepared):
    """The same with the weights of the call packed, _kernels.Prepared."""
    return _forward(call, prepared.kernel, prepared.option, prepared)


def _forward(call, kernel, option, prepared):
    lengths = call.lengths
    if lengths is None:
        order, rows = None, call.N * call.T
    else:
        order, rows = np.argsort(-lengths, kind="stable").astype(np.int64, copy=False), int(lengths.sum())
    run = _kernels.Run(_kernels.CELLS[kernel], call, option, order, rows, prepared)
    if call.memory is not None:
        run.keep(_checkpoints.choose(call, run.needs))
    cache = Cache(call, run) if call.training else None
    if call.out is None:
        if call.step:
            return *run.forward_into_new(None), cache
        h = steps_like_x(call, call.P) if call.return_sequences else None
        return h, *run.forward_into_new(h), cache

    N, dtype = call.N, call.dtype
    results = Results(call.out)
    if call.step:
        names, h = ("h_next", "c_next"), None
    else:
        names = ("h_T", "c_T")
        h = results.add("h", steps_like_x(call, call.P)) if call.return_sequences else results.arrays.append(None)
    h_T = results.add(names[0], np.empty(_arguments.states_shape(call), dtype), fits=_arguments.past_in_place)
    c_T = results.add(names[1], np.empty((N, call.H), dtype)) if call.has_c else None
    run.forward(h, h_T, c_T)
    return *results.finish(), cache


def backward(cache, judged):
    """The gradients of a judged backward call, as a named tuple."""
    call = judged.call
    width, dtype = call.Wx.shape[1], call.dtype
    results, kernel = Results(judged.out), {}
    for name, wanted in zip(judged.names, judged.need, strict=True):
        if not wanted:
            kernel[name] = results.arrays.append(None)
        elif name == "dx":
            new = np.empty((call.N, call.D), dtype) if call.step else steps_like_x(call, call.D)
            kernel[name] = results.add(name, new)
        elif name == "dh_total" or name == "dc_total":
            kernel[name] = results.add(name, steps_like_x(call, call.P if name == "dh_total" else call.H))
        elif name == "dWx" or name == "dWh" or name == "dWr":
            new = np.empty_like(call.Wx if name == "dWx" else call.Wh if name == "dWh" else call.Wr)
            kernel[name] = results.add(name, new, fits=has_contiguous_axis)
        elif name == "db" or name == "dbh":
            kernel[name] = results.add(name, np.empty(width, dtype))
        elif name == "dpeephole" or name == "dalpha":
            kernel[name] = results.add(name, np.empty(3 * call.H if name == "dpeephole" else call.H, dtype))
        elif name in NORM:
            kernel[name] = results.add(name, np.empty(getattr(call.norm, name[1:]).shape, dtype))
        else:
            if name == "dh0" or name == "dh_prev":
                argument, shape = call.h0, (call.N, call.P) if call.rhythm is None else _arguments.states_shape(call)
            else:
                argument, shape = call.c0, (call.N, call.H)
            if argument is not None and argument.ndim < len(shape):
                kernel[name] = np.empty(shape, dtype)
                results.add(name, np.empty(shape[1:], dtype))
            else:
                kernel[name] = results.add(name, np.empty(shape, dtype), fits=_arguments.past_in_place)

    h, c = ("dh_prev", "dc_prev") if call.step else ("dh0", "dc0")
    # fmt: off
    cache._run.backward(
        (call.x, call.Wx, call.Wh, call.peephole, call.Wr, call.masks, call.norm, call.alpha),
        # The steps' dh of a single step is the gradient of its last state.
        None if call.step else judged.dh, judged.dh if call.step else judged.dh_T, judged.dc_T,
        kernel["dx"], kernel[h], kernel.get(c), kernel["dWx"], kernel.get("dWh"), kernel.get("db"), kernel.get("dbh"),
        kernel.get("dpeephole"), kernel.get("dWr"), kernel.get("dh_total"), kernel.get("dc_total"),
        call.norm and tuple(map(kernel.get, NORM)), kernel.get("dalpha"))
    # fmt: on
    gradients = results.finish()
    for name, gradient in zip(judged.names, gradients, strict=True):
        if gradient is not None and gradient.ndim < kernel[name].ndim:  # a state broadcast over the batch
            np.sum(kernel[name], axis=0, out=gradient)
    name = f"{_arguments.class_name(call.cell)}{'Step' * call.step}Gradients"
    return gradients_type(name, judged.names)._make(gradients)


def steps_like_x(call, width):
    """(N, T, width) in the memory order of x, or (sum T, width); uninitialised."""
    if call.flat is not None:
        return np.empty((len(call.x), width), call.dtype)
    return steps_like(call.x, width, call.dtype)


def steps_like(x, width, dtype):
    """(N, T, width) in the memory order of x; uninitialised."""
    N, T, _ = x.shape
    if abs(x.strides[0]) < abs(x.strides[1]):
        return np.empty((T, N, width), dtype).swapaxes(0, 1)
    return np.empty((N, T, width), dtype)


def has_contiguous_axis(matrix):
    """Whether a kernel may write a weight gradient straight into this output, (R, C), or (K, R, C) as K R rows."""
    if matrix.ndim == 3 and not _arguments.first_merge(matrix):
        return False
    *_, row, column = matrix.strides[:1] * 2 + matrix.strides[-1:] if matrix.shape[-2] == 1 else matrix.strides
    return matrix.flags.aligned and matrix.itemsize in (row, column)
