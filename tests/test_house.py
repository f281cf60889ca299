"""Every cell has all its floors, under one name: C, kernel list, reference, public module, exports, stubs, cache."""

import ast
import inspect
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from support import CELLS, VARIANTS, WEIGHTS, random_call, variant_id

import fastgate
from fastgate import _call, reference

ROOT = Path(__file__).parents[1]
PACKAGE = Path(fastgate.__file__).parent
SOURCES = ("__init__.py", "_built.py")  # what an import without kernels comes to
FUNCTIONS = ("forward", "backward", "ragged_forward", "ragged_backward", "step_forward", "step_backward")
AROUND = ("delays", "period")  # options around any cell
KERNELS = fastgate.get_config()["cells"]  # csrc/cells.def
# What has no twin in the reference: what is prepared for its kernels, what is drawn, what is about this machine and this build.
CLASSES = [name for name in fastgate.__all__ if inspect.isclass(getattr(fastgate, name))]
PREPARED = [name for name in CLASSES if name.endswith("Cell")]
LAYERS = [name for name in CLASSES if getattr(fastgate, name).__module__.startswith("fastgate.layers.")]
WINGS = [name for name in CLASSES if name not in PREPARED]
WITHOUT_TWIN = [
    name for module in ("config", "masks", "threads") for name in fastgate.__all__
    if getattr(getattr(fastgate, name), "__module__", None) == f"fastgate.{module}"
]  # fmt: skip
PUBLIC = [name for name in fastgate.__all__ if name not in (*CLASSES, *WITHOUT_TWIN, "__version__")]

kernels = pytest.mark.parametrize("kernel", KERNELS)
cells = pytest.mark.parametrize("cell", CELLS, ids=repr)
in_source_tree = pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="csrc/ is not beside tests/")


def cell_of(kernel):
    """The public cell of a kernel: `gru` for gru_after, one of its options."""
    found = [cell for cell in CELLS if kernel == cell.name or kernel.startswith(f"{cell.name}_")]
    return [cell for cell in found if len(cell.name) == max(len(other.name) for other in found)]


@kernels
def test_a_listed_cell_has_a_public_module_and_a_reference(kernel):
    found = cell_of(kernel)
    assert len(found) == 1, f"csrc/cells.def lists {kernel}: it needs a module in fastgate/reference, exported by its __init__"
    name = found[0].name
    for module in (PACKAGE / f"{name}.py", PACKAGE / "reference" / f"{name}.py"):
        assert module.exists(), f"{module} is missing"


def test_drop_ins_are_thin():
    """Each file of compat/ has at most 150 lines: what needs more belongs into a room of its own, or into the package."""
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (PACKAGE / "compat").glob("*.py")}
    assert {name: count for name, count in lengths.items() if count > 150} == {}


@in_source_tree
@kernels
def test_a_listed_cell_has_gate_math(kernel):
    assert (ROOT / "csrc" / "cells" / f"{kernel}.inc").exists()


@in_source_tree
@kernels
def test_the_table_of_a_cell_says_how_its_sums_are_cut(kernel):
    """A chain of 0 products would never end; see csrc/gemm.inc for what an order may be."""
    table = (ROOT / "csrc" / "cells" / f"{kernel}.inc").read_text(encoding="utf-8")
    orders = re.findall(r"\.order = \{ (\d+), (\d+) \},", table)
    assert len(orders) == 1, f"csrc/cells/{kernel}.inc: its struct cell needs .order"
    chain, block = map(int, orders[0])
    assert 0 < chain <= block <= 512
    assert block % chain == 0
    assert 512 % block == 0


@in_source_tree
def test_gate_math_is_listed():
    assert {file.stem for file in (ROOT / "csrc" / "cells").iterdir()} == set(KERNELS)


@cells
@pytest.mark.parametrize("what", FUNCTIONS)
def test_a_cell_has_its_functions_on_every_floor(cell, what):
    name = f"{cell.name}_{what}"
    for module in (fastgate, reference):
        assert name in module.__all__
        function = getattr(module, name)
        assert function.__module__ == f"{module.__name__}.{cell.name}"
        assert function.__doc__


def test_a_cell_has_its_prepared_class():
    assert PREPARED == [cell.prepared for cell in CELLS]


@cells
def test_a_prepared_class_is_built_as_its_function_is_called(cell):
    """The same weights and options, with the same defaults; its forward has the other arguments, its step the states."""

    def parameters(function):
        found = inspect.signature(function).parameters.values()
        return {p.name: (p.kind, p.default) for p in found if p.name != "self"}

    prepared = getattr(fastgate, cell.prepared)
    assert prepared.__module__ == f"fastgate.{cell.name}"
    function = parameters(cell.function(fastgate, "forward"))
    built, run = parameters(prepared), parameters(prepared.forward)
    for state in cell.states():
        function[state] = (function[state][0], None)
    assert built | run == function
    assert built.keys() & run.keys() == set()
    options = set(dict(itertools.chain(*cell.options)))
    assert set(built) == {"Wx", "Wh", "b", "bh", *AROUND} | options | {"gate_order", "grad_clip", "eps", *WEIGHTS} & set(
        function
    )
    masks = ["recurrent_mask", "zoneout_h"] + ["zoneout_c"] * cell.has_c
    assert list(parameters(prepared.step)) == ["x", *cell.states(step=True), "out", "start", *masks]
    weights = {name: built[name] for name in WEIGHTS if name in built}
    if "alpha" in weights:
        weights["alpha"] = weights["alpha"][0], None  # as before
    assert parameters(prepared.update) == weights
    for member in (prepared, prepared.step, prepared.forward, prepared.update):
        assert member.__doc__


def test_an_import_without_kernels_says_how_to_build(tmp_path):
    sources = shutil.copytree(PACKAGE, tmp_path / "fastgate", ignore=lambda folder, names: {*names} - {*SOURCES})
    here = os.environ | {"PYTHONPATH": str(tmp_path)}
    for code in ("import fastgate", "from fastgate.reference import lstm_forward"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=here, capture_output=True, text=True)
        *_, words = done.stderr.splitlines()
        assert words.startswith(f"ImportError: fastgate: the kernels are not compiled in {sources} for ")
        assert f"; run, in {tmp_path}, `make build`, or `pip install .`" in words
        assert "During handling" not in done.stderr


def test_these_cells_have_layers():
    assert LAYERS == ["RNN", "LSTM", "GRU", "Leaky", "Memory", "LSTMNorm", "GRUNorm"]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_options_of_its_cell(name):
    """With the same defaults, after those that all layers share; but for what stands around a cell in time."""
    layer = getattr(fastgate, name)
    assert layer.__module__ == f"fastgate.layers.{layer._cell}"
    function = inspect.signature(getattr(fastgate, f"{layer._cell}_forward")).parameters
    run = inspect.signature(getattr(fastgate, f"{name}Cell").forward).parameters
    shared = {"num_layers", "bidirectional", "merge", "dropout", "b", "bh", "dtype", "rng", "recurrent_dropout"}
    shared |= {"zoneout_h", "zoneout_c", "delays", "period", "peephole"} & set(function)
    shared |= {"proj_size"} if "Wr" in function else set()
    shared |= {"Wh", "learn_alpha"} if "alpha" in function else {"gain_c"} & set(function)
    built = {p.name: p for p in inspect.signature(layer).parameters.values() if p.kind is p.KEYWORD_ONLY}
    options = set(function) - set(run) - {"Wx", "Wh", "Wr", "gain_x", "gain_h", "beta_c"} - shared - set(AROUND)
    assert built.keys() == shared | options
    assert {option: built[option].default for option in options} == {option: function[option].default for option in options}
    for member in ("forward", "backward", "step", "reset", "state_dict", "load_state_dict", "save", "load"):
        assert getattr(layer, member).__doc__


def test_every_listed_cell_is_reached_from_its_public_module(monkeypatch):
    """By the options of its cell, and each option reaches a kernel of its own cell."""
    forward, reached = _call.forward, {}

    def watched(call, kernel, *option):
        reached.setdefault(kernel, set()).add(call.cell)
        return forward(call, kernel, *option)

    monkeypatch.setattr(_call, "forward", watched)
    for cell, options in VARIANTS:
        for step in (False, True):
            call = random_call(cell, np.random.default_rng(0), step=step)
            cell.function(fastgate, "step_forward" if step else "forward")(**call, **dict(options))
    assert reached == {kernel: {cell.name for cell in cell_of(kernel)} for kernel in KERNELS}


@pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
def test_results_are_named_alike(variant):
    """Forward and backward results have the names of the reference's, in the same order."""
    cell, options = variant
    for step in (False, True):
        names = []
        for module in (fastgate, reference):
            call = random_call(cell, np.random.default_rng(0), step=step)
            found = cell.function(module, "step_forward" if step else "forward")(**call, **dict(options))
            upstream = dict.fromkeys(("dh_next", "dc_next")[: 1 + cell.has_c] if step else ("dh",))
            gradients = cell.function(module, "step_backward" if step else "backward")(cache=found.cache, **upstream)
            names.append((found._fields, gradients._fields))
        assert names[0] == names[1]


def test_the_reference_exports_what_fastgate_does():
    assert reference.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_signatures_equal_those_of_the_reference(name):
    assert str(inspect.signature(getattr(fastgate, name))) == str(inspect.signature(getattr(reference, name)))


def stubbed(module):
    """The parameters of every function in fastgate/<module>.pyi, and of every class's constructor, as the stub has them."""
    tree = ast.parse((PACKAGE / f"{module}.pyi").read_text(encoding="utf-8"))
    constructors = [(c.name, node) for c in tree.body if isinstance(c, ast.ClassDef) for node in c.body]
    functions = {}
    for name, node in [(getattr(node, "name", None), node) for node in tree.body] + constructors:
        if isinstance(node, ast.FunctionDef) and node.name in (name, "__init__"):
            arguments = node.args
            positional = [argument.arg for argument in arguments.posonlyargs + arguments.args if argument.arg != "self"]
            defaults = [ast.literal_eval(value) for value in arguments.defaults]
            required = dict.fromkeys(positional[: len(positional) - len(defaults)], inspect.Parameter.empty)
            keywords = [None if value is None else ast.literal_eval(value) for value in arguments.kw_defaults]
            functions.setdefault(name, []).append(
                (
                    required | dict(zip(positional[len(required) :], defaults, strict=True)),
                    dict(zip([argument.arg for argument in arguments.kwonlyargs], keywords, strict=True)),
                )
            )
    return functions


@pytest.mark.parametrize("name", [name for name in fastgate.__all__ if name != "__version__"])
def test_type_stubs_export_every_function(name):
    """With the parameters and defaults it has; overloaded ones are left to stubtest. Wings are annotated where they stand."""
    function = getattr(fastgate, name)
    module = function.__module__.removeprefix("fastgate.")
    if name in WINGS:
        assert inspect.signature(function).parameters.keys() == inspect.get_annotations(function.__init__).keys()
        return
    stubs = stubbed(module)
    assert name in stubs, f"{name} is missing in {module}.pyi"
    if len(stubs[name]) > 1:
        return
    positional, keywords = {}, {}
    for parameter in inspect.signature(function).parameters.values():
        (keywords if parameter.kind is parameter.KEYWORD_ONLY else positional)[parameter.name] = parameter.default
    assert stubs[name] == [(positional, keywords)]


@in_source_tree
def test_what_skips_without_a_library_is_run_beside_it():
    """`make peers` runs what is marked so."""
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]["peers"]
    peers = {re.match(r"\w+", requirement)[0] for requirement in extra}
    assert {"torch", "keras", "onnx"} <= peers
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        if peers & set(re.findall(r"importorskip\(\"(\w+)", text)):
            assert "mark.beside" in text, file.name


def test_the_package_is_marked_as_typed():
    assert (PACKAGE / "py.typed").exists()


@in_source_tree
def test_the_maps_show_what_is_there():
    """That of the README and that of `help(fastgate)`: every file and folder they name."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Map of the house")[1].split("```")[1]
    package, core = re.search(r"^fastgate/(.*)^csrc/(.*)^tests/", readme, re.M | re.S).groups()
    name = re.compile(r"[\w*/]+\.(?:py|pyx|c|h|inc|def)\b|(?<!\S)\w+/(?!\S)")
    for folder, text in ((PACKAGE, package), (ROOT / "csrc", core), (PACKAGE, fastgate.__doc__.replace("csrc/", ""))):
        found = name.findall(text)
        assert len(found) > 15
        for path in found:
            assert list(folder.glob(path.rstrip("/"))), f"{path} is on the map, not in {folder.name}/"
