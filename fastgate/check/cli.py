"""python -m fastgate certify module:forward module:backward        or path/to/file.py:forward path/to/file.py:backward"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from fastgate.check import certify
from fastgate.check.pair import ERRORS


class Misuse(Exception):
    """Something the user can mend: printed as one line, without a traceback."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "forward", help="module:function, importable from here, or path/to/file.py:function; Class.method for function, too"
    )
    parser.add_argument("backward", help="module:function or path/to/file.py:function")
    parser.add_argument("--sizes", default="", help="N=3,T=5,D=4,H=6, any of them")
    parser.add_argument("--gates", help="number of gates, or their letters in the order of the weights")
    parser.add_argument(
        "--argument", action="append", default=[], metavar="NAME=SHAPE", dest="arguments",
        help='shape of a parameter of forward in letters, "W=D+H 4H", "params.U=D H"; once for each',
    )  # fmt: skip
    parser.add_argument("--outputs", help='names of the results of forward, "h c_T cache"')
    parser.add_argument("--gradients", help='names of the results of backward, "dx dh0 dW db"')
    parser.add_argument(
        "--upstream", action="append", default=[], metavar="PARAMETER=OUTPUT", help='"dlast=h_T", "tape=cache"; once for each'
    )
    parser.add_argument("--directions", type=int, default=4, help="random directions for each gradient (4)")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="largest relative error of a gradient (1e-6)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the report there, too")


def main(options: argparse.Namespace) -> int:
    """Print the report; 0: right, 1: wrong, 2: it could not be run."""
    try:
        forward, backward = _function("forward", options.forward), _function("backward", options.backward)
        gates = options.gates if options.gates is None or not options.gates.isdigit() else int(options.gates)
        try:
            certificate = certify(
                forward, backward, arguments=_arguments(options.arguments), outputs=options.outputs,
                upstream=dict(_pair("--upstream", text, "parameter=output") for text in options.upstream) or None,
                gradients=options.gradients, gates=gates, sizes=_sizes(options.sizes), directions=options.directions,
                tolerance=options.tolerance, seed=options.seed,
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise Misuse(str(error)) from error
        print(certificate)
        if options.json:
            try:
                with open(options.json, "w", encoding="utf-8") as file:
                    json.dump(certificate.to_dict(), file, indent=1)
            except OSError as error:
                raise Misuse(f"cannot write {options.json}: {error.strerror}") from error
    except Misuse as misuse:
        print(f"certify: {misuse}", file=sys.stderr)
        return 2
    return 0 if certificate else 1


def _function(argument: str, text: str) -> Any:
    """What module:name or path/to/file.py:name says; `argument`, forward or backward, begins each error."""
    source, colon, path = text.rpartition(":")  # the last one: a path of Windows has another
    if not (source and colon and path):
        raise Misuse(f"{argument}: expected module:function or path/to/file.py:function, got {text!r}")
    is_file = source.endswith(".py") or os.sep in source or "/" in source
    found: Any = _file(argument, Path(source)) if is_file else _module(argument, source)
    within = source
    for name in path.split("."):
        if not hasattr(found, name):
            raise Misuse(f"{argument}: {within} has no {name}{_functions_of(found)}")
        found, within = getattr(found, name), f"{within}:{name}" if within == source else f"{within}.{name}"
    return found


def _module(argument: str, name: str) -> ModuleType:
    _import_from(os.getcwd())
    try:
        return importlib.import_module(name)
    except ERRORS as error:
        raise Misuse(f"{argument}: cannot import {name}: {type(error).__name__}: {error}") from error


def _file(argument: str, path: Path) -> ModuleType:
    """The module of a file, run once for both functions; it imports from its own folder, as a script does."""
    if not path.is_file():
        named = path.parent / f"{path.name}.py"  # "/" and "." have no name
        raise Misuse(f"{argument}: there is no file {path}" + (f"; write {named.name}:…" if named.is_file() else ""))
    path = path.resolve()
    for loaded in list(sys.modules.values()):
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
    name = path.stem if path.stem not in sys.modules else str(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Misuse(f"{argument}: expected a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    _import_from(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ERRORS as error:
        del sys.modules[name]
        raise Misuse(f"{argument}: cannot import {path}: {type(error).__name__}: {error}") from error
    return module


def _import_from(folder: str) -> None:
    if folder not in sys.path and not (folder == os.getcwd() and "" in sys.path):
        sys.path.insert(0, folder)


def _functions_of(module: Any) -> str:
    """The functions that were written there, for whoever mistyped one."""
    names = [
        name for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ] if isinstance(module, ModuleType) else []  # fmt: skip
    return f"; its functions: {', '.join(names[:12])}" if names else ""


def _pair(option: str, text: str, words: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise Misuse(f"{option}: expected {words}, got {text!r}")
    return name, value


def _arguments(texts: list[str]) -> dict[str, Any] | None:
    arguments: dict[str, Any] = {}
    for text in texts:
        name, shape = _pair("--argument", text, "name=shape")
        first, dot, key = name.partition(".")
        if first in arguments and isinstance(arguments[first], dict) != bool(dot):
            raise Misuse(f"--argument: expected one shape for {first}, or one for each array of the dict, got both")
        if dot:
            arguments.setdefault(first, {})[key] = shape
        else:
            arguments[name] = shape
    return arguments or None


def _sizes(text: str) -> dict[str, int]:
    try:
        return {name: int(size) for name, size in (part.split("=") for part in text.replace(" ", "").split(",") if part)}
    except ValueError:
        raise Misuse(f"--sizes: expected N=3,T=5,D=4,H=6, any of them, got {text!r}") from None
