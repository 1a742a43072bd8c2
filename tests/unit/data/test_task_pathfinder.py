"""Pathfinder by its rules: labels traced on clean drawings made here, not by the generator."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.options import checked
from vqscale.data.tasks.pathfinder import CONTOUR_LENGTHS, PATHFINDER_SETTINGS, Pathfinder, Scene, render
from vqscale.errors import CorpusError

FINE = 8
CASES = [(32, "easy"), (32, "intermediate"), (32, "hard"), (64, "easy"), (128, "intermediate")]
generators = pytest.mark.parametrize("generator", [Pathfinder(size=s, difficulty=d) for s, d in CASES], ids=str)


def scenes(generator: Pathfinder, count: int) -> list[tuple[int, Scene]]:
    return [(n % 2, generator.scene(n % 2, generator.random("train", n, 0))) for n in range(count)]


def traced(scene: Scene, size: int) -> np.ndarray:
    """The numbers of the connected lines, gaps bridged, on which the two circles are; 0 for none."""
    canvas = np.zeros((size * FINE, size * FINE), dtype=bool)
    for path in (*scene.targets, *scene.distractors):
        corners = [point for dash in path for point in (dash.start, dash.end)]
        for start, end in itertools.pairwise(corners):
            for share in np.linspace(0, 1, 20 * FINE):
                y, x = np.rint((start + share * (end - start)) * FINE).astype(int)
                canvas[y, x] = True
    lines, _ = ndimage.label(canvas, structure=np.ones((3, 3)))
    return np.array([lines[tuple(np.rint(circle * FINE).astype(int))] for circle in scene.circles])


@generators
def test_pathfinder_circles_are_joined_by_a_line_exactly_where_the_label_says_so(generator):
    for same, scene in scenes(generator, 6):
        first, second = traced(scene, generator.size)
        assert first > 0
        assert second > 0
        assert (first == second) == bool(same)


@generators
def test_pathfinder_circles_are_at_ends_of_paths_and_are_white(generator):
    radius = PATHFINDER_SETTINGS[generator.size].marker_radius
    for _, scene in scenes(generator, 6):
        image = render(scene, generator.size)
        tips = [(path[0].start, path[-1].end) for path in scene.targets]
        assert any(np.array_equal(scene.circles[0], begin) for begin, _ in tips)
        assert any(np.array_equal(scene.circles[1], end) for _, end in tips)
        y, x = np.mgrid[: generator.size, : generator.size]
        for circle in scene.circles:
            distance = np.hypot(y - circle[0], x - circle[1])
            assert image[distance < radius - 0.75].min() == 255
        assert np.count_nonzero(image == 255) < generator.size**2 / 8


@generators
def test_pathfinder_paths_have_their_dashes_and_keep_their_distance(generator):
    dashes, settings = CONTOUR_LENGTHS[generator.difficulty], PATHFINDER_SETTINGS[generator.size]
    for _, scene in scenes(generator, 4):
        assert [len(path) for path in scene.targets] == [dashes, dashes]
        assert all(len(path) == dashes // 3 for path in scene.distractors)
        assert len(scene.distractors) <= settings.distractor_dashes // (dashes // 3)
        spread = np.linspace(0, 1, 9)[:, None]
        points = [
            np.concatenate([dash.start + spread * (dash.end - dash.start) for dash in path])
            for path in (*scene.targets, *scene.distractors)
        ]
        assert all(point.min() >= 1 and point.max() <= generator.size - 2 for point in points)
        for number, one in enumerate(points):
            for other in points[:number]:
                distances = np.linalg.norm(one[:, None] - other[None], axis=-1)
                assert distances.min() > settings.thickness / 2 + min(settings.margins) - 0.5


def test_pathfinder_dash_turns_no_more_than_its_continuity_allows():
    generator = Pathfinder(size=64, difficulty="easy")
    for _, scene in scenes(generator, 6):
        for path in (*scene.targets, *scene.distractors):
            angles = np.array([dash.angle for dash in path])
            turns = np.abs((np.diff(angles) + np.pi) % (2 * np.pi) - np.pi)
            assert np.all(1.8 * turns < np.pi / 2)


def test_pathfinder_distractors_are_there_most_of_the_time():
    found = [len(scene.distractors) for _, scene in scenes(Pathfinder(difficulty="hard"), 10)]
    assert np.mean(found) > 2.5


def test_pathfinder_corpus_is_balanced_and_repeats_by_its_seed(tmp_path):
    def made(seed: int, out: str):
        generator = Pathfinder(seed=seed, difficulty="easy", examples=(10, 4, 4))
        return prepare_labelled(generator, str(tmp_path / out))

    manifest = made(0, "first")
    assert [record.class_counts for record in manifest.splits.values()] == [(5, 5), (2, 2), (2, 2)]
    assert manifest.splits["train"].lengths == (1024,) * 5
    assert manifest.fingerprint == made(0, "second").fingerprint != made(1, "third").fingerprint


def test_pathfinder_pixels_are_ids_above_the_padding():
    [tokens] = Pathfinder(difficulty="easy").draw("train", 0, 0).tokens
    assert (tokens.min(), tokens.max()) == (1, 256)


@pytest.mark.parametrize("options", [{"size": 48}, {"difficulty": "extreme"}])
def test_pathfinder_options_that_cannot_be_are_refused(options):
    with pytest.raises(CorpusError, match=f"{next(iter(options))}: "):
        checked(Pathfinder, **options)
