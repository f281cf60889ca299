"""A record as pictures: bars.py, roofline.py, heat.py."""

from pathlib import Path

from . import bars, heat, roofline
from .record import Record


def draw(record: Record, path: Path) -> list[Path]:
    """The pictures that the record has rows for: the bars in `path`, the others in files beside it."""
    drawn = [
        bars.draw(record, path),
        roofline.draw(record, path.with_stem(f"{path.stem}-roofline")),
        heat.draw(record, path.with_stem(f"{path.stem}-map")),
    ]
    return [picture for picture in drawn if picture]
