"""The pixels of a grey PNG image (ISO/IEC 15948), 8 bits a pixel, not interlaced: what generators of images write."""

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def grey_pixels(content: bytes) -> npt.NDArray[np.uint8]:
    """[rows, columns]; ValueError says what is wrong or not read."""
    if not content.startswith(_SIGNATURE):
        raise ValueError("no PNG signature")
    chunks: dict[bytes, bytes] = {}
    place = len(_SIGNATURE)
    while place + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        chunks[kind] = chunks.get(kind, b"") + content[place + 8 : place + 8 + size]
        place += 12 + size
    columns, rows, *form = struct.unpack(">IIBBBBB", chunks.get(b"IHDR", b"").ljust(13, b"\0")[:13])
    if form[:2] != [8, 0] or form[4]:
        raise ValueError("not 8-bit grey without interlace")
    try:
        lines = np.frombuffer(zlib.decompress(chunks.get(b"IDAT", b"")), np.uint8)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(lines) != rows * (columns + 1):
        raise ValueError(f"{len(lines)} bytes for {rows} rows of {columns} pixels")
    return _unfiltered(lines.reshape(rows, columns + 1))


def _unfiltered(lines: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Undo the filter that the first byte of every line names."""
    image = np.zeros((len(lines) + 1, lines.shape[1]), dtype=np.uint8)  # a row of zeros above, a column to the left
    for row, line in enumerate(lines.tolist(), start=1):
        kind, values, above = line[0], line[1:], image[row - 1].tolist()
        left = 0
        for column, value in enumerate(values, start=1):
            left = image[row, column] = (value + _predicted(kind, left, above[column], above[column - 1])) % 256
    return image[1:, 1:]


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:  # Paeth: whichever of the three is nearest to left + up - corner
        estimate = left + up - corner
        return min((left, up, corner), key=lambda value: abs(estimate - value))
    if kind > 4:
        raise ValueError(f"filter {kind} is unknown")
    return (0, left, up, (left + up) // 2)[kind]
