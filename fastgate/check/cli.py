"""python -m fastgate certify module:forward module:backward"""

import argparse
import importlib
import json
import os
import sys
from typing import Any

from fastgate.check import certify


class Misuse(Exception):
    """Something the user can mend: printed as one line, without a traceback."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("forward", help="module:function, importable from here; module:Class.method, too")
    parser.add_argument("backward", help="module:function")
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
        forward, backward = _function(options.forward), _function(options.backward)
        gates = options.gates if options.gates is None or not options.gates.isdigit() else int(options.gates)
        try:
            certificate = certify(
                forward, backward, arguments=_arguments(options.arguments), outputs=options.outputs,
                upstream=dict(_pair(text, "parameter=output") for text in options.upstream) or None,
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


def _function(text: str) -> Any:
    module, colon, path = text.partition(":")
    if not (module and colon and path):
        raise Misuse(f"expected module:function, got {text!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise Misuse(f"cannot import {module}: {type(error).__name__}: {error}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise Misuse(f"{getattr(found, '__name__', module)} has no {name}")
        found = getattr(found, name)
    return found


def _pair(text: str, words: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise Misuse(f"expected {words}, got {text!r}")
    return name, value


def _arguments(texts: list[str]) -> dict[str, Any] | None:
    arguments: dict[str, Any] = {}
    for text in texts:
        name, shape = _pair(text, "name=shape")
        first, dot, key = name.partition(".")
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
