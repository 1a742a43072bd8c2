"""Pathfinder (Linsley et al. 2018) by the rules of drewlinsley/pathfinder@7b53886 with Long Range Arena's settings:
are two circles the ends of one dashed path, or of two? A sequence is an image, row by row.

Coordinates are (y, x) in pixels, pixel centres at whole numbers. A path ("snake") is a row of dashes ("paddles").
"""

from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from vqscale.data.labelled.format import PIXELS, Example, Layout
from vqscale.data.shards import SplitName
from vqscale.data.tasks.drawing import Coordinates, Image, direction, distance, draw_line, pixel_grid, ring, touched
from vqscale.data.tasks.generator import Generator
from vqscale.errors import CorpusError

_IMAGES = 5000
"""Images started for one example before its settings are taken to be impossible."""
_DASH_TRIES = 3
_DISTRACTOR_TRIES = 5
_STEPS_BACK = 30
"""Dashes that may be removed while two paths grow, before the image is started again."""
CONTOUR_LENGTHS: Final = {"easy": 6, "intermediate": 9, "hard": 14}


@dataclass(frozen=True)
class PathfinderSettings:
    """Settings that depend on the size of an image; lengths in pixels."""

    dash: int
    thickness: float
    margins: tuple[int, ...]
    """One is drawn for each image."""
    marker_radius: float
    seed_distance: float
    distractor_dashes: int
    """Most dashes of all distractors together: the reference's numerator."""
    continuity: float
    brightness: float


PATHFINDER_SETTINGS: Final = {
    # lra_benchmarks/data/pathfinder.py; the dash of 64 and 128 is the generator's default. Brightness is the product of
    # the two contrasts; at size 32 it is doubled because dashes cover half a pixel.
    32: PathfinderSettings(2, 0.5, (1,), 1.5, 7, 20, 1.0, 2 * 0.75),
    64: PathfinderSettings(5, 1.0, (1,), 2.5, 12, 22, 1.8, 0.8),
    128: PathfinderSettings(5, 1.5, (2, 3), 3.0, 20, 35, 1.8, 0.9),
}


@dataclass
class PathfinderDash:
    """From `start` to `end` along `angle`. It turns around `pivot`, one margin before its start; its successor turns
    around `next_pivot`."""

    start: Coordinates
    end: Coordinates
    pivot: Coordinates
    next_pivot: Coordinates
    angle: float


@dataclass
class Scene:
    """Two target paths, distractors, and the ends that are marked by a circle."""

    targets: list[list[PathfinderDash]]
    distractors: list[list[PathfinderDash]] = field(default_factory=list)
    circles: list[Coordinates] = field(default_factory=list)


class Pathfinder(Generator):
    """Images of `size` x `size` pixels with paths of 6, 9 or 14 dashes (`difficulty`); half are labelled "same"."""

    name: ClassVar[str] = "pathfinder"

    examples: tuple[int, int, int] = (160_000, 20_000, 20_000)
    size: Literal[32, 64, 128] = 32
    difficulty: Literal["easy", "intermediate", "hard"] = "hard"
    real_inputs: bool = False

    def layout(self) -> Layout:
        classes = ("different", "same")
        return Layout(classes=classes, labels="sequence", vocabulary=PIXELS, real_inputs=self.real_inputs)

    def draw(self, split: SplitName, index: int, attempt: int) -> Example:
        same = index % 2
        pixels = render(self.scene(same, self.random(split, index, attempt)), self.size)
        return Example((pixels.ravel().astype(np.uint16) + 1,), label=same)

    def scene(self, same: int, random: np.random.Generator) -> Scene:
        """A scene, drawn again from the start until all paths fit, as in the reference."""
        for _ in range(_IMAGES):
            scene = self._attempt(random)
            if scene is not None:
                first = int(random.integers(2))
                last = first if same else 1 - first
                scene.circles = [scene.targets[first][0].start, scene.targets[last][-1].end]
                return scene
        raise CorpusError(f"size: {_IMAGES} images of {self.size} pixels had no space for {self.difficulty} paths.")

    def _attempt(self, random: np.random.Generator) -> Scene | None:
        canvas = _Canvas(self.size, PATHFINDER_SETTINGS[self.size], random)
        contour = CONTOUR_LENGTHS[self.difficulty]
        targets = canvas.two_paths(contour)
        if targets is None:
            return None
        scene = Scene(targets)
        for _ in range(PATHFINDER_SETTINGS[self.size].distractor_dashes // (contour // 3)):
            path = canvas.path(contour // 3)
            scene.distractors += (
                [path] if path is not None else []
            )  # as in the reference, a path that does not fit is skipped
        return scene


class _Canvas:
    """The occupied pixels: every path, gaps included, widened by the margin. No other dash may be there.

    Only pixels entirely within the margin count, as with the reference's threshold on smoothed masks (1.8 of two).
    """

    def __init__(self, size: int, settings: PathfinderSettings, random: np.random.Generator) -> None:
        self._size, self._settings, self._random = size, settings, random
        self._margin = int(random.choice(settings.margins))
        self._reach = settings.thickness / 2 + self._margin - 0.5
        self._claims = np.zeros((size, size), dtype=np.int16)
        """Number of dashes that occupy each pixel."""

    def two_paths(self, dashes: int) -> list[list[PathfinderDash]] | None:
        """Two paths that begin `seed_distance` apart, the first at least twice that from the edge, and grow in turn.

        A path that cannot grow loses its last two dashes; the reference starts the image again instead, which takes
        thousands of images where paths are long.
        """
        edge = int(2 * self._settings.seed_distance)
        first = self._seed(self._random.integers(edge, self._size - edge, size=2).astype(np.float64))
        second = None if first is None else self._seed(self._around(first.start, self._settings.seed_distance))
        if first is None or second is None:
            return None
        paths = [[first], [second]]
        for _ in range(2 * dashes + 2 * _STEPS_BACK):
            path = min(paths, key=len)
            if len(path) == dashes:
                return paths
            if not self._extend(path):
                for _ in range(min(2, len(path) - 1)):
                    self._claim(path.pop(), -1)
        return None

    def path(self, dashes: int) -> list[PathfinderDash] | None:
        """One path at a random place; a few starting points are tried."""
        for _ in range(_DISTRACTOR_TRIES):
            first = self._seed(self._anywhere())
            path = [] if first is None else [first]
            while path and len(path) < dashes and self._extend(path):
                pass
            if len(path) == dashes:
                return path
            for dash in path:
                self._claim(dash, -1)
        return None

    def _anywhere(self) -> Coordinates:
        free = np.argwhere(self._claims == 0)
        return free[self._random.integers(len(free))].astype(np.float64) if len(free) else np.full(2, -1.0)

    def _around(self, centre: Coordinates, distance: float) -> Coordinates:
        return centre + distance * direction(self._random.uniform(0, 2 * np.pi))

    def _seed(self, start: Coordinates) -> PathfinderDash | None:
        for _ in range(_DASH_TRIES):
            angle = self._random.uniform(-np.pi, np.pi)
            dash = self._dash(start - self._margin * direction(angle), angle)
            if self._place(dash, None):
                return dash
        return None

    def _extend(self, path: list[PathfinderDash]) -> bool:
        """Add a dash whose head is a pixel of a circle around the pivot; straighter continuations are more likely."""
        last, pivot = path[-1], path[-1].next_pivot
        centre = np.rint(pivot)
        heads = centre + ring(self._settings.dash + self._margin)
        inside = np.all((heads >= 1) & (heads <= self._size - 2), axis=1)
        heads = heads[inside]
        angles = np.arctan2(heads[:, 0] - pivot[0], heads[:, 1] - pivot[1])
        turns = np.abs((angles - last.angle + np.pi) % (2 * np.pi) - np.pi)
        weights = np.cos(np.minimum(self._settings.continuity * turns, np.pi / 2)) ** 2
        weights *= self._claims[heads[:, 0].astype(int), heads[:, 1].astype(int)] == 0
        for _ in range(_DASH_TRIES):
            if weights.sum() < 1e-9:
                return False
            head = int(self._random.choice(len(heads), p=weights / weights.sum()))
            dash = self._dash(pivot, float(angles[head]))
            if self._place(dash, last):
                path.append(dash)
                return True
            weights[head] = 0
        return False

    def _dash(self, pivot: Coordinates, angle: float) -> PathfinderDash:
        along, dash, margin = direction(angle), self._settings.dash, self._margin
        start = pivot + margin * along
        return PathfinderDash(start, start + dash * along, pivot, start + (dash + margin) * along, angle)

    def _place(self, dash: PathfinderDash, last: PathfinderDash | None) -> bool:
        """Occupy the pixels of the dash unless it leaves the image or touches a dash other than its predecessor."""
        for tip in (dash.start, dash.end):
            if np.any(tip < 1) or np.any(tip > self._size - 2):
                return False
        rows, columns, near = self._covered(dash.start, dash.end)
        others = self._claims[rows, columns]
        if last is not None:
            _, _, own = self._covered(last.pivot, last.next_pivot, (rows, columns))
            others = others - own
        if np.any(others[near]):
            return False
        self._claim(dash, 1)
        return True

    def _claim(self, dash: PathfinderDash, count: int) -> None:
        """Occupy or release a dash with the gaps before and after it, so that no path passes between two dashes."""
        rows, columns, near = self._covered(dash.pivot, dash.next_pivot)
        self._claims[rows, columns] += count * near

    def _covered(
        self, start: Coordinates, end: Coordinates, window: tuple[slice, slice] | None = None
    ) -> tuple[slice, slice, npt.NDArray[np.bool_]]:
        rows, columns = window or touched(start, end, self._reach, self._size)
        return rows, columns, distance(start, end, *pixel_grid(rows, columns)) < self._reach


def render(scene: Scene, size: int) -> npt.NDArray[np.uint8]:
    """The image of a scene, [size, size]: dashes with anti-aliasing, circles white; the brighter value wins."""
    settings = PATHFINDER_SETTINGS[size]
    image: Image = np.zeros((size, size))
    for dash in (dash for path in (*scene.targets, *scene.distractors) for dash in path):
        draw_line(image, dash.start, dash.end, settings.thickness / 2, settings.brightness)
    for circle in scene.circles:
        draw_line(image, circle, circle, settings.marker_radius, 1.0)
    return np.rint(255 * image).astype(np.uint8)
