"""Arguments by position: where there is one too many, the error says what it may have been meant as."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from fastgate._arguments.words import _ask

F = TypeVar("F", bound=Callable[..., Any])


def by_position(function: F) -> F:
    """Decorates f(x, …, b=None, *more, bh=None, …), which raises too_many(f, more) where there is more; help() and inspect show
    a bare * in its place."""
    signature = inspect.signature(function)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    function.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return function


def too_many(function: Callable[..., Any], more: tuple[Any, ...]) -> TypeError:
    """The error of a call that has `more` behind its last argument by position."""
    kept = inspect.signature(function).parameters.values()
    names = [p.name for p in kept if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    name = function.__qualname__.removesuffix(".__init__")
    c = {"h0": "c0", "h_prev": "c_prev"}.get(names[1])
    hint = _ask("bh=… by name") + (f" There is no {c}." if c and c not in names else "")
    return TypeError(f"{name}: expected ({', '.join(names)}), got {len(names) + len(more)} arguments by position{hint}")
