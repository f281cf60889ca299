"""The model file: one .npz of plain arrays, enough to continue bit for bit. Nothing in it is unpickled.

header                          JSON: settings, vocabulary, steps made, place in the text, generator
<backend>/parameters/<name>     E, Wx0, Wh0, b0, …, V, c
<backend>/adam_m/<name>  <backend>/adam_v/<name>
<backend>/states/<layer>/<h or c>
<backend>/losses                the curve
"""

import json
from dataclasses import asdict

import numpy as np

from fastgate import _npz

from .model import shapes
from .options import DemoError, settings_from
from .train import Run

FORMAT = "fastgate demo 1"


def arrays_of(run):
    """Name -> array of everything a run must remember, the curve apart."""
    result = {}
    kinds = {"parameters": run.model.parameters, "adam_m": run.adam.m, "adam_v": run.adam.v}
    for kind, arrays in kinds.items():
        result |= {f"{kind}/{name}": array for name, array in arrays.items()}
    for layer, state in enumerate(run.states):
        result |= {f"states/{layer}/{name}": array for name, array in zip("hc", state, strict=False)}
    return result


def save(path, settings, chars, digest, streams, runs):
    """Writes the model file beside its place, then moves it there: one finds the old file or the new one."""
    header = {
        "format": FORMAT,
        "settings": asdict(settings),
        "vocabulary": chars,
        "digest": digest,
        "step": len(runs[0].losses),
        "start": streams.start,
        "position": streams.position,
        "rng": streams.rng.bit_generator.state,
    }
    arrays = {"header": np.array(json.dumps(header))}
    for run in runs:
        arrays |= {f"{run.name}/{name}": array for name, array in arrays_of(run).items()}
        arrays[f"{run.name}/losses"] = np.array(run.losses, np.float64)
    try:
        _npz.write_arrays(path, arrays)
    except OSError as error:
        raise DemoError(f"--model {path}: could not save ({error.strerror or error})") from None


class Checkpoint:
    """What a model file holds, judged: settings, chars, digest, step, start, position, rng; the arrays."""

    def __init__(self, path):
        self.path = path
        try:
            self.read(path)
        except OSError as error:
            raise DemoError(f"--resume {path}: {error.strerror or error}") from None
        except (*_npz.MALFORMED, AttributeError, ArithmeticError) as error:
            reason = error.__cause__ or error
            missing = " is missing" * isinstance(reason, KeyError)
            raise DemoError(f"--resume {path}: not a model of this demo ({reason}{missing})") from None

    def read(self, path):
        with _npz.Npz(path, "a model of this demo") as file:
            self.judge_header(json.loads(file.read_new("header").item()))
            self.runs = {name: self.read_run(file, name) for name in ("c", "reference") if f"{name}/losses" in file.entries}
            if not self.runs:
                raise ValueError("no backend's arrays are in it")

    def judge_header(self, header):
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']!r}, expected {FORMAT!r}")
        self.settings = settings_from(header["settings"])
        self.chars, self.digest = header["vocabulary"], header["digest"]
        if self.chars != "".join(sorted(set(self.chars))) or not self.chars:
            raise ValueError("its vocabulary is not a sorted list of characters")
        self.step, self.start, self.position = (int(header[name]) for name in ("step", "start", "position"))
        if min(self.step, self.start, self.position) < 0:
            raise ValueError("a negative place")
        self.rng = np.random.default_rng()
        self.rng.bit_generator.state = header["rng"]

    def read_run(self, file, backend):
        expected = {
            f"{kind}/{name}": shape
            for kind in ("parameters", "adam_m", "adam_v")
            for name, shape in shapes(self.settings, len(self.chars)).items()
        }
        for layer in range(self.settings.layers):
            for part in "hc" if self.settings.cell == "lstm" else "h":
                expected[f"states/{layer}/{part}"] = (self.settings.batch, self.settings.hidden)
        expected["losses"] = (self.step,)
        result = {}
        for name, shape in expected.items():
            found = file.entries[f"{backend}/{name}"]
            dtype = "float64" if name == "losses" else self.settings.dtype
            if found.shape != shape or found.dtype != dtype:
                raise ValueError(f"{backend}/{name}: expected {shape} {dtype}, got {found.shape} {found.dtype}")
            result[name] = file.read_new(f"{backend}/{name}")
        return result

    def continue_run(self, name, settings, world):
        """The run of backend `name` as it was; one that the file lacks starts from the other's arrays."""
        saved = self.runs.get(name) or next(iter(self.runs.values()))
        named = shapes(settings, len(self.chars))
        run = Run(name, settings, {p: saved[f"parameters/{p}"].copy() for p in named}, world)
        for key, array in arrays_of(run).items():
            array[...] = saved[key]
        run.adam.step = self.step
        run.losses = saved["losses"].tolist()
        return run

    def continue_streams(self, streams):
        """Puts `streams` back to where they were."""
        if self.start >= len(streams.ids) or self.position > streams.spacing:
            raise DemoError(f"--resume {self.path}: its place in the text lies outside of the text")
        streams.start, streams.position, streams.rng = self.start, self.position, self.rng
