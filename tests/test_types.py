"""The stubs, as far as they can be tested without a type checker; `make types` runs mypy and stubtest."""

import ast
from pathlib import Path

import typed_usage

import fastgate


def test_typed_usage_runs():
    typed_usage.main()


def test_every_public_name_has_types():
    folder = Path(fastgate.__file__).parent
    typed = {
        node.name
        for stub in folder.glob("*.pyi")
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert set(fastgate.__all__) - {"__version__"} <= typed
