"""Smooth lines and discs in images, and the pixels near a line.

Coordinates are (y, x) in pixels, pixel centres at whole numbers.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

Coordinates = npt.NDArray[np.float64]
Image = npt.NDArray[np.float64]
_SUPERSAMPLES = 4


def draw_line(image: Image, start: Coordinates, end: Coordinates, radius: float, brightness: float) -> None:
    """Draw all points within `radius` of a line segment; a pixel is as bright as the share of its samples within it."""
    rows, columns = touched(start, end, radius, len(image))
    y, x = pixel_grid(rows, columns)
    offsets = (np.arange(_SUPERSAMPLES) + 0.5) / _SUPERSAMPLES - 0.5
    fine_y = (y + offsets[None, :]).reshape(-1, 1)
    fine_x = (x.reshape(-1, 1) + offsets[None, :]).reshape(1, -1)
    inside = (distance(start, end, fine_y, fine_x) <= radius).astype(np.float64)
    share = inside.reshape(y.shape[0], _SUPERSAMPLES, x.shape[1], _SUPERSAMPLES).mean((1, 3))
    image[rows, columns] = np.maximum(image[rows, columns], np.minimum(brightness * share, 1.0))


def touched(start: Coordinates, end: Coordinates, radius: float, size: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a line segment of this radius may touch."""
    low = np.maximum(np.floor(np.minimum(start, end) - radius), 0).astype(int)
    high = np.minimum(np.ceil(np.maximum(start, end) + radius) + 1, size).astype(int)
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def pixel_grid(rows: slice, columns: slice) -> tuple[Coordinates, Coordinates]:
    """Coordinates y [rows, 1] and x [1, columns] of the pixels of a window."""
    return np.arange(rows.start, rows.stop)[:, None] * 1.0, np.arange(columns.start, columns.stop)[None, :] * 1.0


def distance(start: Coordinates, end: Coordinates, y: Coordinates, x: Coordinates) -> Coordinates:
    """Distance of the points (y, x) from a line segment."""
    along = end - start
    squared = float(along @ along)
    share = ((y - start[0]) * along[0] + (x - start[1]) * along[1]) / squared if squared else 0.0 * (y + x)
    share = np.clip(share, 0, 1)
    distance: Coordinates = np.hypot(y - start[0] - share * along[0], x - start[1] - share * along[1])
    return distance


def direction(angle: float) -> Coordinates:
    """Unit vector (y, x) at an angle in radians."""
    return np.array([np.sin(angle), np.cos(angle)])


@cache
def ring(radius: int) -> Coordinates:
    """Offsets of the pixels on a circle, [n, 2]."""
    span = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)
    on_circle: Coordinates = offsets[np.abs(np.hypot(*offsets.T) - radius) < 0.5].astype(np.float64)
    return on_circle
