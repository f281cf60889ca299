"""Locks of objects that threads share, open in a child of fork though another thread of the parent held them."""

import os
import threading
import weakref
from typing import Any

_owners: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


def give_lock(owner: Any) -> None:
    """A new lock as `owner._lock`. Its holder may take it again."""
    owner._lock = threading.RLock()
    _owners[id(owner)] = owner


def _anew() -> None:
    for owner in list(_owners.values()):
        owner._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_anew)
