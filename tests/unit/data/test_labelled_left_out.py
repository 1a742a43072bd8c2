"""Labelled raw data of the user's own: unreadable examples are counted, and labels that are none are refused."""

import gzip
import io
import struct
import wave
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vqscale.cli.data import app
from vqscale.data.labelled.format import LabelledManifest
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.tasks.catalogue import raw_files_loader
from vqscale.errors import CorpusError


def prepared(name: str, folder: Path, out: Path, *, max_skipped: float = 0.1, **options: object) -> LabelledManifest:
    return prepare_labelled(raw_files_loader(name, str(folder), **options), str(out), max_skipped=max_skipped)


def png(number: int) -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8)).astype(np.uint8)).save(target, "png")
    return target.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


WHOLE = png(0)
DAMAGED = {
    "empty": b"",
    "jpeg": b"\xff\xd8\xff\xe0 nothing",
    "cut": WHOLE[:-30],
    "flipped": WHOLE[:45] + bytes([WHOLE[45] ^ 0xFF]) + WHOLE[46:],
    "short header": WHOLE[:8] + chunk(b"IHDR", bytes(5)) + WHOLE[33:],
    "huge": WHOLE[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)) + WHOLE[33:],
    "no pixels": WHOLE[:33] + chunk(b"IEND", b""),
    "long text": WHOLE[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000))) + WHOLE[33:],
    "colour": b"",
}


@pytest.fixture
def pathfinder(tmp_path):
    """A release of 30 images."""

    def make(damaged: dict[int, bytes]) -> Path:
        folder = tmp_path / "release"
        (folder / "metadata").mkdir(parents=True)
        (folder / "imgs" / "0").mkdir(parents=True)
        rows = [f"imgs/0 sample_{n}.png {n} {n % 2} 1.0" for n in range(30)]
        (folder / "metadata" / "0.npy").write_text("\n".join(rows))
        for number in range(30):
            (folder / "imgs" / "0" / f"sample_{number}.png").write_bytes(damaged.get(number, png(number + 1)))
        return folder

    return make


@pytest.mark.parametrize("kind", DAMAGED)
def test_unreadable_image_is_named_counted_and_left_out(pathfinder, tmp_path, kind):
    content = DAMAGED[kind]
    if kind == "colour":
        target = io.BytesIO()
        Image.new("RGB", (8, 8)).save(target, "png")
        content = target.getvalue()
    source = prepared("pathfinder", pathfinder({7: content}), tmp_path / "out").source
    assert source.left_out.unreadable == 1
    assert "sample_7.png: no readable image (" in source.left_out.first[0]


@pytest.mark.parametrize(("count", "most", "fits"), [(3, 0.1, True), (4, 0.1, False), (4, 0.2, True), (2, 0.0, False)])
def test_unreadable_images_are_limited(pathfinder, tmp_path, count, most, fits):
    folder = pathfinder(dict.fromkeys(range(count), b"no image"))
    if fits:
        made = prepared("pathfinder", folder, tmp_path / "out", max_skipped=most)
        assert made.source.left_out.unreadable == count
        assert sum(sum(record.class_counts) for record in made.splits.values()) == 30 - count
        return
    with pytest.raises(CorpusError, match=rf"{count} of 30 examples .* cannot be read; the first: .*sample_0"):
        prepared("pathfinder", folder, tmp_path / "out", max_skipped=most)


def test_unreadable_examples_are_on_the_screen(pathfinder, tmp_path):
    arguments = ["prepare", str(pathfinder({7: b"x"})), "--as", "pathfinder", "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "left out     1 unreadable examples" in shown
    assert "sample_7.png" in shown


def sound(channels: int = 1, rate: int = 16_000) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(64))
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (sound(channels=2), "2 channels of 16 bits at 16000 Hz"),
        (sound(rate=8000), "1 channels of 16 bits at 8000 Hz"),
        (b"RIFF", "no readable wave file"),
        (b"", "no readable wave file"),
        (sound()[:40], "no readable wave file"),
    ],
)
def test_unreadable_recording_is_named_counted_and_left_out(tmp_path, content, reason):
    folder = tmp_path / "speech"
    for word in ("yes", "no"):
        (folder / word).mkdir(parents=True)
        for number in range(6):
            (folder / word / f"{number}.wav").write_bytes(sound())
    (folder / "yes" / "5.wav").write_bytes(content)
    (folder / "validation_list.txt").write_text("yes/1.wav\n")
    (folder / "testing_list.txt").write_text("no/1.wav\n")
    left_out = prepared("speech-commands-10", folder, tmp_path / "out", partial=True).source.left_out
    assert left_out.unreadable == 1
    assert f"yes/5.wav: {reason}" in left_out.first[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [f"Jan  1 00:{n % 60:02} host event" for n in range(300)],
            "0 normal lines, .* and 300 alerts.* such as 'Jan'",
        ),
        ([f"- event {n}" for n in range(300)], "300 normal lines, .* and 0 alerts"),
        (
            [f"{'ERR' if n < 2 else '-'} event {n}" for n in range(300)],
            "298 normal lines, .* and 2 alerts.* such as 'ERR'",
        ),
        ([f"10:00:00.{n:05} host event" for n in range(3000)], "begin with more than 1,000 different words"),
        ([f"{'-' if n % 2 else n} event" for n in range(3000)], "begin with more than 1,000 different words"),
    ],
)
def test_log_without_labels_is_refused(tmp_path, lines, message):
    (tmp_path / "a.log").write_text("\n".join(lines))
    with pytest.raises(CorpusError, match=rf"classes: .*{message}.*without --as"):
        prepared("labelled-logs", tmp_path / "a.log", tmp_path / "out")


def test_log_whose_alerts_all_come_late_is_refused_for_training(tmp_path):
    (tmp_path / "a.log").write_text("".join(f"{'ERR' if n > 280 else '-'} event {n}\n" for n in range(300)))
    with pytest.raises(CorpusError, match=r"all training examples of .* are of the class 'normal'"):
        prepared("labelled-logs", tmp_path / "a.log", tmp_path / "out")


def test_class_of_fewer_than_three_texts_is_refused(tmp_path):
    for name, count in {"cat": 50, "dog": 50, "newt": 2}.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "in" / name / f"{number}.txt").write_text(f"{name} {number}")
    with pytest.raises(CorpusError, match=r"fewer than 3 texts of newt \(2\), too few for three splits"):
        prepared("labelled-text", tmp_path / "in", tmp_path / "out")


def test_table_of_one_class_is_refused(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / f"basic_{split}.tsv").write_text("Source\tTarget\n" + "7\t7\n" * 20)
    with pytest.raises(CorpusError, match=r"all training examples of listops .* are of the class '7'"):
        prepared("listops", tmp_path, tmp_path / "out", partial=True)


def test_files_that_are_no_text_are_left_out_of_labelled_texts(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "in" / name / f"{number}.txt").write_text(f"{name} {number}")
    (tmp_path / "in" / "cat" / "photo.png").write_bytes(WHOLE)
    left_out = prepared("labelled-text", tmp_path / "in", tmp_path / "out").source.left_out
    assert (left_out.unreadable, left_out.first) == (1, (f"{tmp_path}/in/cat/photo.png: an image, not text",))
    for number in range(5):
        (tmp_path / "in" / "dog" / f"{number}.jpg").write_bytes(WHOLE)
    with pytest.raises(CorpusError, match=r"6 of 46 examples .* an image, not text"):
        prepared("labelled-text", tmp_path / "in", tmp_path / "again")


def test_log_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "b.log").write_bytes(b"\x1f\x8b\x08 packed\n" * 5)
    with pytest.raises(CorpusError, match=r"b.log is gzip-compressed, not a log. Let its name end in .gz"):
        prepared("labelled-logs", tmp_path / "b.log", tmp_path / "out")


def test_file_of_one_example_that_cannot_be_opened_is_left_out(pathfinder, tmp_path):
    """A link to nothing stands for a failing disk: root may read everything."""
    folder = pathfinder({})
    (folder / "imgs" / "0" / "sample_7.png").unlink()
    (folder / "imgs" / "0" / "sample_7.png").symlink_to(tmp_path / "nowhere")
    left_out = prepared("pathfinder", folder, tmp_path / "out").source.left_out
    assert left_out.unreadable == 1
    assert "sample_7.png: " in left_out.first[0]
    (folder / "metadata" / "1.npy").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"1\.npy cannot be read"):
        prepared("pathfinder", folder, tmp_path / "again")


def test_packed_text_that_is_cut_short_is_left_out(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(30):
            (tmp_path / "in" / name / f"{number}.txt.gz").write_bytes(gzip.compress(f"{name} {number}".encode()))
    whole = (tmp_path / "in" / "cat" / "0.txt.gz").read_bytes()
    (tmp_path / "in" / "cat" / "0.txt.gz").write_bytes(whole[:-9])
    made = prepared("labelled-text", tmp_path / "in", tmp_path / "out")
    assert made.source.left_out.unreadable == 1
    assert sum(sum(record.class_counts) for record in made.splits.values()) == 59
