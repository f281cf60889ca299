"""What all structures share: layers and arrays of their own in one flat buffer, judged states, a cell run step by step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple, ParamSpec, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

import fastgate
from fastgate import _arguments
from fastgate.layers import _affine, _initial, _judge
from fastgate.layers._layer import Layer
from fastgate.layers._parameters import KINDS, Parameters, plus
from fastgate.layers._types import Array, Lengths, Rng, Shapes

Cell = Literal["rnn", "lstm", "gru", "leaky", "memory", "lstm_norm", "gru_norm"]
CELLS = get_args(Cell)
State = Any  # (h,) or (h, c), arrays (num_layers, N, H); h is P wide with proj_size=P
P = ParamSpec("P")
R = TypeVar("R")


class Outputs(NamedTuple):
    """What forward of a structure returns."""

    o: Array  # (N, T, output_size), or (N, output_size) where there is one output
    state: State  # (h_T,) or (h_T, c_T)
    cache: Any  # None with training=False


class StateOutputs(NamedTuple):
    """What forward of a structure without an output of its own returns."""

    h: Array  # (N, T, output_size of the layer)
    state: State  # (h_T,) or (h_T, c_T)
    cache: Any  # None with training=False


class StructureGradients(NamedTuple):
    """What backward of a structure returns; the weights' gradients are in its `gradients`."""

    dx: Array | Any  # (N, T, input_size); None with need_dx=False
    dstate: State  # of the first state: (dh0,) or (dh0, dc0)


class StructureCache:
    """What a structure's forward keeps for its backward. It refers to the arguments and the weights without copying them: write
    into them after backward, not before."""

    __slots__ = ("kept", "structure")

    def __init__(self, structure: Structure, **kept: Any):
        self.structure, self.kept = structure, kept

    def __repr__(self) -> str:
        return f"<cache of {type(self.structure).__name__}.forward>"


class _Recorder:
    """What stands for a layer while its constructor judges the arguments: keeps the config, builds nothing."""

    def __init__(self, kind: type[Layer]):
        self._judged = kind._judged

    def _build(self, config: dict[str, Any], rng: Any) -> None:
        self.config = config

    def _draw(self) -> None:
        pass


def kind_of(cell: str) -> type[Parameters]:
    """The layer of this cell."""
    return KINDS[_arguments.class_name(cell)]


def config_of(cell: str, input_size: int, hidden_size: int, options: dict[str, Any]) -> dict[str, Any]:
    """The config of the layer of this cell, judged by its own constructor; nothing is allocated."""
    kind: Any = kind_of(cell)
    recorder = _Recorder(kind)
    kind.__init__(recorder, input_size, hidden_size, **options)
    return recorder.config


class Structure(Parameters):
    """Layers (`_plan`) and arrays (`_own`) that a config makes. Weights of a layer have its name before theirs, encoder.Wx0."""

    _rebuilt: ClassVar[tuple[str, ...]] = (*Parameters._rebuilt, "_parts")
    _options: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size")  # those that are not of the cell
    _takes_delays: ClassVar[bool] = False  # whether its layer may have them; others hand on h of one step

    # --- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def _plan(cls, config: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
        """Name -> (cell, config) of each layer."""
        raise NotImplementedError

    @classmethod
    def _own(cls, config: dict[str, Any]) -> Shapes:
        """Name -> (letters, sizes) of each array that belongs to no layer."""
        return {}

    @classmethod
    def _cell_options(cls, config: dict[str, Any]) -> dict[str, Any]:
        """The options of the cell, dtype too."""
        return {name: value for name, value in config.items() if name not in cls._options}

    @classmethod
    def _judged_cell(cls, config: dict[str, Any], cell: Any, options: dict[str, Any]) -> dict[str, Any]:
        """`config`, whose input_size and hidden_size are judged here, with the cell and its options as plain data."""
        config["cell"] = _arguments.option("cell", cell, CELLS)
        judged = config_of(config["cell"], config["input_size"], config["hidden_size"], options)
        if judged["delays"] is not None and not cls._takes_delays:
            raise ValueError(f"delays: expected None, {cls._kind} hands on h of one step; got some")
        if judged["period"] is not None:
            raise ValueError("period: expected None, a structure does not number its steps; got one")
        return config | {name: judged[name] for name in (*options, "dtype")}

    @classmethod
    def _layers(cls, config: dict[str, Any]) -> dict[str, Layer]:
        """The layers, without weights."""
        layers = {}
        for name, (cell, given) in cls._plan(config).items():
            layer: Any = object.__new__(kind_of(cell))
            layer._config = given
            layers[name] = layer
        return layers

    @classmethod
    def _number_of_arrays(cls, config: dict[str, Any]) -> int:
        layers = sum(layer._number_of_arrays(layer._config) for layer in cls._layers(config).values())
        return layers + len(cls._own(config))

    def _shapes(self) -> Shapes:
        layers = self._layers(self._config).items()
        shapes = {f"{name}.{weight}": shape for name, layer in layers for weight, shape in layer._shapes().items()}
        return shapes | self._own(self._config)

    def _count(self) -> int:
        own = sum(int(np.prod(sizes, dtype=object)) for _, sizes in self._own(self._config).values())
        return own + sum(layer.num_parameters for layer in self._parts.values())

    def _sizes_in_words(self) -> str:
        sizes = (f"{name} = {value}" for name, value in self._config.items() if name.endswith("_size") or name == "num_layers")
        return ", ".join(sizes)

    def _allocate(self) -> None:
        self._parts = self._layers(self._config)
        for layer in self._parts.values():
            layer._build(layer._config, self._rng)
        super()._allocate()

    def _lie_in(self, parameters: Array, gradients: Array) -> None:
        super()._lie_in(parameters, gradients)
        begin = 0
        for layer in self._parts.values():
            end = begin + layer.num_parameters
            layer._lie_in(parameters[begin:end], gradients[begin:end])
            begin = end

    def _create(self, config: dict[str, Any], rng: Rng) -> None:
        self._build(config, rng)
        for layer in self._parts.values():
            layer._draw()
        for name in self._own(config):
            if self._weights[name].ndim == 2:
                self._weights[name][...] = _initial.glorot_uniform(self._rng, *self._weights[name].shape)

    def _implied(self) -> dict[str, Any]:
        return {name: None for name in self._config}

    def _lines(self) -> Iterable[list[str]]:
        for name, layer in self._parts.items():
            yield [f"{name}.{weight}" for weight in layer.weights]
        own = self._own(self._config)
        if own:
            yield list(own)

    def __repr__(self) -> str:
        text = super().__repr__().splitlines()
        words = ", ".join(f"{name}={value!r}" for name, value in self._config.items())
        return "\n".join([f"{type(self).__name__}({words}): {self.num_parameters} parameters", *text[1:]])

    # --- arguments ---------------------------------------------------------------------------------------------------

    def _array(self, name: str, a: Any, letters: tuple[str, ...], sizes: tuple[int, ...]) -> Array:
        return _judge.array(name, a, self._dtype, letters, sizes)

    def _state_of(self, name: str, given: Any, layer: Layer, N: int) -> tuple[Any, ...]:
        """The states of a layer as its forward takes them, each None where `given` is None."""
        if given is None:
            return (None,) * len(layer._state_shapes)
        return tuple(_judge.state(name, given, layer._state_shapes, (layer.num_layers * layer.num_directions, N), self._dtype))

    def _cache_of(self, cache: Any) -> dict[str, Any]:
        if type(cache) is not StructureCache or cache.structure is not self:
            ours = type(cache) is StructureCache
            got = f"that of another {type(cache.structure).__name__}" if ours else _arguments.cache_in_words(cache)
            hint = "; call forward with training=True" if cache is None else ""
            raise ValueError(f"cache: expected the cache of this structure's forward, got {got}{hint}")
        return cache.kept

    @contextlib.contextmanager
    def _writing(self, accumulate: bool) -> Iterator[None]:
        """Within, everything is added to `gradients`."""
        with self._lock:
            if not accumulate:
                self._gradients[...] = 0
            yield

    def _output_backward(self, do: Array, cache: Any, V: str = "V", c: str = "c") -> Array:
        """dh of o = h V + c; adds to the gradients of V and c."""
        dV, dc = np.empty_like(self._weights[V]), np.empty_like(self._weights[c])
        dh = _affine.backward(do, cache, dV, dc)
        self._add(V, dV)
        self._add(c, dc)
        return dh

    def _add(self, name: str, gradient: Array) -> None:
        plus(self._grads[name], gradient.reshape(self._grads[name].shape))


def lengths_of(lengths: Lengths, N: int, T: int, name: str = "lengths") -> NDArray[np.int64] | None:
    """(N,) integers 0..T, or None."""
    if lengths is None:
        return None
    try:
        return _arguments._lengths(lengths, N, T)
    except (TypeError, ValueError) as error:
        if name == "lengths":
            raise
        raise type(error)(str(error).replace("lengths", name, 1)) from None


def within(a: Array, lengths: NDArray[np.int64] | None) -> Array:
    """a (N, T, ...) with zeros past a row's length; `a` itself where there are no lengths."""
    if lengths is None:
        return a
    inside = np.arange(a.shape[1]) < lengths[:, None]
    return np.where(inside.reshape(*inside.shape, *(1,) * (a.ndim - 2)), a, a.dtype.type(0))


def silent(function: Callable[P, R]) -> Callable[P, R]:
    """The function, as silent about infinities as the kernels are."""

    @functools.wraps(function)
    def called(*arguments: P.args, **keywords: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*arguments, **keywords)

    return called


def zeros_of(layer: Layer, N: int) -> tuple[Array, ...]:
    """States of zeros, (N, H) or P wide, of one layer and direction."""
    return tuple(np.zeros((N, *shape), layer._dtype) for _, shape in layer._state_shapes.values())


class Tape:
    """A cell that is run step by step, where an input of a step is made of the state before.

    weights : the arguments of the cell's functions by name. Steps of rows that are not `active` leave their states.
    """

    def __init__(self, layer: Layer, weights: dict[str, Array], training: bool):
        self.cell, self.functions, self.options = layer._cell, layer._functions, layer._options
        self.weights, self.training = weights, training
        self.steps: list[tuple[Array, tuple[Array, ...], Any, Any]] = []

    def forward(self, x: Array, states: tuple[Array, ...], active: NDArray[np.bool_] | None = None) -> tuple[Array, ...]:
        """The states after a step of x (N, D)."""
        if active is not None:
            x = np.where(active[:, None], x, x.dtype.type(0))
        *after, cache = self.functions.step_forward(x, *states, **self.weights, training=self.training, **self.options)
        if self.training:
            self.steps.append((x, states, active, cache))
        if active is not None:
            after = [np.where(active[:, None], a, b) for a, b in zip(after, states, strict=True)]
        return tuple(after)


class TapeBackward:
    """The way back over a tape, its last step first; then the gradients of the weights, all steps in one call."""

    def __init__(self, tape: Tape):
        self.tape, self.at = tape, len(tape.steps)
        self.step_backward = getattr(fastgate, f"{tape.cell}_step_backward")
        self.upstream: list[tuple[Array, ...]] = []

    def backward(self, dstates: tuple[Array, ...], need_dx: bool = True) -> tuple[Any, tuple[Array, ...]]:
        """(dx, gradients of the states before) of the step from those of the states after it."""
        self.at -= 1
        _, _, active, cache = self.tape.steps[self.at]
        held = None
        if active is not None:
            zero = dstates[0].dtype.type(0)
            held = [np.where(active[:, None], zero, d) for d in dstates]
            dstates = tuple(np.where(active[:, None], d, zero) for d in dstates)
        self.upstream.append(dstates)
        before = ("dh_prev", "dc_prev")[: len(dstates)]
        found = self.step_backward(*dstates, cache, need=(*before, "dx") if need_dx else before)
        after = tuple(getattr(found, name) for name in before)
        if held is not None:
            after = tuple(plus(a, b) for a, b in zip(after, held, strict=True))
        return found.dx, after

    def weights(self) -> dict[str, Array]:
        """Name of an argument -> its gradient, over all steps: they lie side by side as the rows of one step."""
        tape = self.tape
        if not tape.steps:
            return {name: np.zeros_like(a) for name, a in tape.weights.items()}
        x = np.concatenate([step[0] for step in tape.steps])
        states = [np.concatenate(parts) for parts in zip(*(step[1] for step in tape.steps), strict=True)]
        dstates = [np.concatenate(parts[::-1]) for parts in zip(*self.upstream, strict=True)]
        cache = tape.functions.step_forward(x, *states, **tape.weights, **tape.options)[-1]
        found = self.step_backward(*dstates, cache, need=[f"d{name}" for name in tape.weights])
        return {name: getattr(found, f"d{name}") for name in tape.weights}
