"""What all layers share, whatever they compute: named weights and gradients, each in one flat array; files, copies."""

from __future__ import annotations

import copyreg
import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from fastgate import _arguments, _locks, _npz
from fastgate.layers import _buffer, _judge
from fastgate.layers._types import Array, Rng, Shapes

FORMAT = "fastgate layer 1"
WANTED = "a layer saved by fastgate"
KINDS: dict[str, type[Parameters]] = {}
MOST_ARRAYS = 100_000
R = TypeVar("R")


class Parameters:
    """Weights made from a `_config`. A class names its `_kind`, judges its constructor's arguments in `_judged`, and says which
    arrays they make: _number_of_arrays, _count, _shapes."""

    _kind: ClassVar[str]  # in files
    _rebuilt: ClassVar[tuple[str, ...]] = ("_dtype", "_parameters", "_gradients", "_weights", "_grads", "_lock")  # from _config
    _judged: ClassVar[Callable[..., dict[str, Any]]]  # the constructor's arguments but rng -> plain data, which JSON can hold
    _config: dict[str, Any]
    _rng: np.random.Generator
    _lock: Any  # of `gradients`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "_kind" in vars(cls):
            KINDS[cls._kind] = cls

    # --- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def _number_of_arrays(cls, config: dict[str, Any]) -> int:
        """How many weights have a name, without a list of them."""
        raise NotImplementedError

    def _count(self) -> int:
        """The number of weights, without a list of them."""
        raise NotImplementedError

    def _sizes_in_words(self) -> str:
        """The sizes that make the number of weights, for an error."""
        raise NotImplementedError

    def _shapes(self) -> Shapes:
        """Name -> (letters, sizes) of every weight, in the order in which they lie in memory."""
        raise NotImplementedError

    def _build(self, config: dict[str, Any], rng: Rng) -> None:
        """Everything but the values of the weights, which are zeros."""
        self._rng = _judge.generator(rng)
        self._config = config
        self._allocate()

    def _allocate(self) -> None:
        self._dtype = np.dtype(self._config["dtype"])
        count = self._count()
        _arguments._affordable(2 * count * self._dtype.itemsize, 0, self._sizes_in_words())
        arrays = self._number_of_arrays(self._config)
        if arrays > MOST_ARRAYS:
            raise ValueError(f"{self._sizes_in_words()}: expected at most {MOST_ARRAYS} arrays of weights, got {arrays}")
        self._lie_in(*(_buffer.zeros(count, self._dtype) for _ in range(2)))
        _locks.give_lock(self)

    def _lie_in(self, parameters: Array, gradients: Array) -> None:
        """The weights and the gradients are views of these arrays from now on."""
        self._parameters, self._gradients = parameters, gradients
        self._weights = _buffer.Views("weights", parameters, self._shapes())
        self._grads = _buffer.Views("grads", gradients, self._shapes())

    # --- what a layer is ---------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments but rng, plain data: type(layer)(**layer.config) is a layer of the same shape."""
        return dict(self._config)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64, that of all arrays."""
        return self._dtype

    @property
    def num_parameters(self) -> int:
        """How many weights there are, biases too."""
        return self._parameters.size

    @property
    def parameters(self) -> Array:
        """(num_parameters,), all weights, live: what is written here is what the next call computes with."""
        return self._parameters

    @parameters.setter
    def parameters(self, value: Array) -> None:
        _only_in_place("parameters", value, self._parameters)  # layer.parameters -= … ends with this assignment

    @property
    def gradients(self) -> Array:
        """(num_parameters,), what backward wrote, at the places of the weights; zeros at first."""
        return self._gradients

    @gradients.setter
    def gradients(self, value: Array) -> None:
        _only_in_place("gradients", value, self._gradients)

    @property
    def weights(self) -> _buffer.Views:
        """Name -> live view of `parameters`, in the order of the docstring of the class.

        layer.weights[name] = values copies them into the view: a shape that differs is a ValueError, another dtype a TypeError,
        an unknown name a KeyError.
        """
        return self._weights

    @property
    def grads(self) -> _buffer.Views:
        """Name of a weight -> live view of `gradients`; assigned to as `weights` are."""
        return self._grads

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(KINDS[self._kind]).parameters.items()}
        defaults |= {"dtype": "float32"} | self._implied()
        words = [f"{name}={value!r}" for name, value in self._config.items() if value != defaults[name]]
        words[:2] = [str(self._config[name]) for name in ("input_size", "hidden_size")]
        lines = [f"{type(self).__name__}({', '.join(words)}): {self.num_parameters} parameters"]
        lines += ["  " + "  ".join(f"{name} {self._weights[name].shape}" for name in names) for names in self._lines()]
        return "\n".join(lines)

    def _implied(self) -> dict[str, Any]:
        """Defaults that follow from other arguments."""
        return {}

    def _lines(self) -> Iterable[list[str]]:
        """The names of the weights, as they stand in the lines of repr()."""
        return [list(self._weights)]

    def _fill_gradients(self, accumulate: bool, fill: Callable[[Array], R]) -> R:
        """fill(flat) writes all gradients: `gradients` or, where they are added to those, an array like it."""
        if accumulate:
            fresh = np.empty_like(self._gradients)
            result = fill(fresh)
            with self._lock:
                plus(self._gradients, fresh)
            return result
        with self._lock:
            return fill(self._gradients)

    def _views(self, flat: Array) -> Mapping[str, Array]:
        """`gradients`, or an array like it, by the names of the weights."""
        if flat is self._gradients:
            return self._grads
        return _buffer.views(flat, {name: a.shape for name, a in self._grads.items()})

    # --- copies and files --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """Name -> copy of every weight."""
        return {name: a.copy() for name, a in self._weights.items()}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Take the weights of a mapping with exactly the names, shapes and dtype of `weights`; they are copied.

        A missing or unknown name or a shape that differs is a ValueError, another dtype a TypeError; no weight is changed then.
        """
        for name, a in _judge.named("mapping", mapping, self._shapes(), self._dtype).items():
            self._weights[name][...] = a

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an uncompressed .npz: the weights by name and, as JSON under "header", the constructor's arguments.

        The file appears whole or not at all, under exactly this path. Gradients, streams’ states and the generator are not in
        it.
        """
        header = {"format": FORMAT, "layer": self._kind, "config": self._config}
        _npz.write(path, header, dict(self._weights))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, rng: Rng = None) -> Self:
        """The layer that `save` wrote; rng as in the constructor, for dropout.

        Nothing is unpickled, everything is judged before it is read, and loading takes no more memory than the size of the file
        and 64 MiB. A file that is damaged or holds something else is a ValueError, one that cannot be opened an OSError.
        """
        return _load(path, rng, cls)

    def __getstate__(self) -> tuple[dict[str, Any], Array, Array]:
        kept = {name: value for name, value in vars(self).items() if name not in self._rebuilt}
        return kept, self._parameters, self._gradients

    def __setstate__(self, state: tuple[dict[str, Any], Array, Array]) -> None:
        kept, parameters, gradients = state
        vars(self).update(kept)
        self._allocate()
        self._parameters[...] = parameters
        self._gradients[...] = gradients

    def __reduce__(self) -> Any:
        return copyreg.__newobj__, (type(self),), self.__getstate__()  # type: ignore[attr-defined]


def _only_in_place(name: str, value: Any, own: Array) -> None:
    if value is not own:
        raise AttributeError(
            f"{name}: expected the layer's own array, changed in place; to copy values: layer.{name}[...] = values"
        )


def plus(a: Array, b: Array) -> Array:
    """a += b, as silent about infinities as the kernels are."""
    with np.errstate(all="ignore"):
        a += b
    return a


def times(a: Array, b: Array) -> Array:
    """a *= b, as silent."""
    with np.errstate(all="ignore"):
        a *= b
    return a


def load(path: str | os.PathLike[str], *, rng: Rng = None) -> Parameters:
    """The layer or structure that its `save` wrote, of the class that it had.

    rng: as in the constructor, for dropout. Nothing is unpickled, everything is judged before it is read, and loading takes no
    more memory than the size of the file and 64 MiB. A file that is damaged or holds something else is a ValueError, one that
    cannot be opened an OSError.
    """
    return _load(path, rng, Parameters)


def _kind_of(name):
    """The class that says so in its files; structures are imported when one is asked for."""
    if name not in KINDS:
        importlib.import_module("fastgate.structures")
    return KINDS.get(name)


def _load(path, rng, cls):
    rng = _judge.generator(rng)
    with _npz.Npz(path, WANTED) as file:
        header = file.header()
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"its header has not the format {FORMAT!r}")
        kind, given = _kind_of(header["layer"]), header["config"]
        if kind is None:
            raise ValueError(f"its layer is {header['layer']!r}")
        if cls is not Parameters and not issubclass(cls, kind):
            raise ValueError(f"it holds {header['layer']}; fastgate.layers.load reads any layer")
        layer = object.__new__(kind if cls is Parameters else cls)
        config = kind._judged(**given)
        arrays = kind._number_of_arrays(config)
        if arrays + 1 != len(file.entries):
            raise ValueError(f"it has {len(file.entries) - 1} arrays, not the {arrays} of its {kind._kind}")
        layer._config = config
        for name, (_, sizes) in layer._shapes().items():
            entry = file.entries[name]
            if entry.shape != sizes or entry.dtype != config["dtype"]:
                raise ValueError(f"{name}: expected {sizes} {config['dtype']}, got {entry.shape} {entry.dtype}")
        layer._build(config, rng)
        for name, array in layer._weights.items():
            file.read(name, array)
    return layer
