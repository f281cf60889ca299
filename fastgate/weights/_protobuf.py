"""The fields of a protobuf message that lies in a file, one after the other: nothing is built, bytes are read when asked for.

Source: https://protobuf.dev/programming-guides/encoding. A message is a row of (number << 3 | wire type) and a value.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

CUT_SHORT = "source: expected an ONNX model, got a file that is cut short or none"
OTHER_KIND = "source: expected an ONNX model, got a message of another kind"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MOST_FIELDS = 2**18
LONGEST = 2**12  # bytes of a name or a list of numbers
_WINDOW = 2**12  # bytes read at a time to find where fields begin


class Field(NamedTuple):
    """Where the value of a field lies; a varint's is its `size`."""

    number: int
    wire: int
    start: int
    size: int


class Message:
    """`size` bytes of a file from `start` on. Reading more than MOST_FIELDS of its fields, or past its end, is a ValueError."""

    def __init__(self, file: Any, start: int, size: int):
        self.file, self.start, self.size = file, start, size

    def __iter__(self) -> Iterator[Field]:
        place, end, count = self.start, self.start + self.size, 0
        window, first = b"", place
        while place < end:
            count += 1
            if count > MOST_FIELDS:
                raise ValueError(f"source: expected at most {MOST_FIELDS} fields in a message, got more")
            at = place - first
            if at + 20 > len(window) and first + len(window) < end:
                self.file.seek(place)
                window, first, at = self.file.read(min(_WINDOW, end - place)), place, 0
            key, at = _varint(window, at)
            number, wire = key >> 3, key & 7
            size = {FIXED64: 8, FIXED32: 4, VARINT: 0}.get(wire)
            if wire in (VARINT, BYTES):
                value, at = _varint(window, at)
                size = value if wire == BYTES else 0
            if size is None or first + at + size > end:
                raise ValueError(CUT_SHORT)
            yield Field(number, wire, first + at, value if wire == VARINT else size)
            place = first + at + size

    def inner(self, field: Field) -> "Message":
        if field.wire != BYTES:
            raise ValueError(OTHER_KIND)
        return Message(self.file, field.start, field.size)

    def bytes(self, field: Field) -> bytes:
        """The bytes of a field, a name or a list of numbers; not of weights."""
        if field.wire == VARINT or field.size > LONGEST:
            raise ValueError(f"source: expected at most {LONGEST} bytes in a field that holds no weights, got {field.size}")
        self.file.seek(field.start)
        return self.file.read(field.size)

    def text(self, field: Field) -> str:
        return self.bytes(field).decode("utf-8", "replace")

    def one_float(self, field: Field) -> float:
        if field.wire != FIXED32:
            raise ValueError(OTHER_KIND)
        return self.floats(field)[0]

    def one_integer(self, field: Field) -> int:
        if field.wire != VARINT:
            raise ValueError(OTHER_KIND)
        return _signed(field.size)

    def floats(self, field: Field) -> list[float]:
        """One float, or a packed row of them."""
        data = self.bytes(field)
        return list(struct.unpack(f"<{len(data) // 4}f", data[: len(data) // 4 * 4]))

    def integers(self, field: Field) -> list[int]:
        """One int64, or a packed row of them."""
        if field.wire == VARINT:
            return [_signed(field.size)]
        data, place, found = self.bytes(field), 0, []
        while place < len(data):
            value, place = _varint(data, place)
            found.append(_signed(value))
        return found


def _varint(data, place):
    """(the value, the place after it)."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), place
    raise ValueError(CUT_SHORT)


def _signed(value):
    return value - 2**64 if value >= 2**63 else value
