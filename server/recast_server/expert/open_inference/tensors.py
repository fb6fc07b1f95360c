"""Tensors of the Open Inference Protocol: names of their types, and values out of JSON and out of bytes.

Bytes are little-endian and row-major; an element of ``BYTES`` is its length, four bytes unsigned, and then itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

DataType = Literal["INT64", "FP32", "FP64", "BYTES"]
Value = int | float | str
_NUMBERS: dict[str, np.dtype[np.generic]] = {"INT64": np.dtype("<i8"), "FP64": np.dtype("<f8")}
_LENGTH = struct.Struct("<I")
_INT64 = 2**63


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor must be; a size of -1 is any from 1 on."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)}"

    def fits(self, datatype: str, shape: Sequence[int]) -> bool:
        """Whether a tensor is of this type and of such a shape."""
        same = len(shape) == len(self.shape) and all(
            size == asked or (asked == -1 and size >= 1) for size, asked in zip(shape, self.shape, strict=True)
        )
        return datatype == self.datatype and same


def from_json(datatype: DataType, shape: Sequence[int], data: Sequence[object]) -> list[Value]:
    """The values of a tensor in JSON, flat or nested. Raises ValueError that says what is wrong with them."""
    return checked(datatype, shape, _flat(data, shape))


def checked(datatype: DataType, shape: Sequence[int], values: list[object]) -> list[Value]:
    """The same values, of a flat tensor. Raises ValueError that says what is wrong with them."""
    if len(values) != math.prod(shape):
        raise ValueError(f"its data has {len(values)} values where its shape needs {math.prod(shape)}")
    for value in values:
        if datatype == "BYTES":
            fine = isinstance(value, str)
        elif datatype == "INT64":
            fine = isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64
        else:
            fine = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not fine:
            raise ValueError(f"its data has a value that is no {datatype}")
    return values  # type: ignore[return-value]


def from_bytes(datatype: DataType, shape: Sequence[int], data: bytes) -> list[Value]:
    """The values of a tensor in its binary form. Raises ValueError that says what is wrong with them."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return list(_texts(data, count))
    number = _NUMBERS[datatype]
    if len(data) != count * number.itemsize:
        raise ValueError(f"its data has {len(data)} bytes where its shape needs {count * number.itemsize}")
    values: list[Value] = np.frombuffer(data, number).tolist()
    return values


def _flat(data: Sequence[object], shape: Sequence[int]) -> list[object]:
    values, nested = list(data), any(isinstance(value, list) for value in data)
    for inner in shape[1:] if nested else ():
        parts = [value for value in values if isinstance(value, list) and len(value) == inner]
        if len(parts) != len(values):
            raise ValueError("its data is not nested as its shape says")
        values = [value for part in parts for value in part]
    return values


def _texts(data: bytes, count: int) -> Sequence[str]:
    texts, place = list[str](), 0
    for _ in range(count):
        if len(data) - place < _LENGTH.size:
            raise ValueError(f"its data ends before its {count} texts do")
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if len(data) - place < length:
            raise ValueError(f"its data has a text of {length} bytes, and fewer bytes")
        texts.append(text(data[place : place + length]))
        place += length
    if place != len(data):
        raise ValueError(f"its data has {len(data) - place} bytes after its {count} texts")
    return texts


def text(data: bytes) -> str:
    """A text out of its bytes. Raises ValueError that says what is wrong with them."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("its data has a text that is not UTF-8") from None
