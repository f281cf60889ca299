from typing import TypedDict

class _Config(TypedDict):
    version: str
    isa: str
    isa_levels: list[str]
    cells: list[str]
    cpu: str
    numpy: str
    python: str

def get_config() -> _Config: ...
def show_config() -> None: ...
def cpu_name() -> str: ...
