from typing import Any

ISA: str
LEVELS: tuple[str, ...]
CELLS: dict[str, int]

def __getattr__(name: str) -> Any: ...  # the rest is called by this package alone
