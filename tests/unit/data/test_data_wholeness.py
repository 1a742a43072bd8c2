"""Published data sets have known sizes: an incomplete download is refused, unless a part is what is wanted."""

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.loaders import HutterFile, ImageNet64, WikiText103
from vqscale.data.prepare import prepare
from vqscale.data.tasks.catalogue import LABELLED_LOADERS, raw_files_loader
from vqscale.errors import CorpusError


@pytest.mark.parametrize("name", ["enwik8", "text8"])
@pytest.mark.parametrize("kind", ["plain", "zip"])
def test_hutter_file_of_another_size_is_refused(tmp_path, name, kind):
    path = tmp_path / (f"{name}.zip" if kind == "zip" else name)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, bytes(18_000))
    else:
        path.write_bytes(bytes(18_000))
    with pytest.raises(CorpusError, match=rf"has 18,000 bytes; {name} has 100,000,000.*--partial"):
        prepare(str(path), str(tmp_path / "out"), loader=name)
    manifest = prepare(str(path), str(tmp_path / "out"), loader=name, partial=True)
    assert manifest.source.description == f"{name} at {path} (taken with --partial)"


def test_hutter_file_of_the_right_size_is_accepted(tmp_path, monkeypatch):
    assert HutterFile.BYTES == 100_000_000
    monkeypatch.setattr(HutterFile, "BYTES", 18_000)
    (tmp_path / "enwik8").write_bytes(bytes(18_000))
    assert prepare(str(tmp_path / "enwik8"), str(tmp_path / "out"), loader="enwik8").splits["train"].bytes == 16_200


def test_pg19_without_all_its_books_is_refused_before_any_is_read(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / "pg19" / split).mkdir(parents=True)
        (tmp_path / "pg19" / split / "1.txt").write_bytes(b"\xff no text")
    with pytest.raises(CorpusError, match="has 1 books of train; PG-19 has 28,602"):
        prepare(str(tmp_path / "pg19"), str(tmp_path / "out"), loader="pg19")


def test_wikitext_counts_the_lines_of_every_split(tmp_path, monkeypatch):
    assert WikiText103.LINES == {"train": 1_801_350, "validation": 3_760, "test": 4_358}
    for split in ("train", "validation", "test"):
        table = pa.table({"text": ["", " = Title = \n", "", " Some text . \n"]})
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(CorpusError, match="has 4 lines of train; WikiText-103 has 1,801,350"):
        prepare(str(tmp_path), str(tmp_path / "out"), loader="wikitext103")
    monkeypatch.setattr(WikiText103, "LINES", {"train": 4, "validation": 4, "test": 4})
    assert prepare(str(tmp_path), str(tmp_path.parent / "out"), loader="wikitext103").splits["test"].lines == 4


def test_imagenet64_counts_its_images(tmp_path):
    assert ImageNet64.IMAGES == {"train": 1_281_167, "val": 50_000}
    np.savez(tmp_path / "train_data_batch_1.npz", data=np.zeros((2, 12_288), np.uint8))
    with pytest.raises(CorpusError, match="has 2 images of train; ImageNet 64x64 has 1,281,167"):
        list(ImageNet64(str(tmp_path)).pieces())


def mnist(count: int) -> dict[str, bytes]:
    images, labels = np.zeros((count, 4, 4), np.uint8), np.arange(count) % 10

    def idx(values: np.ndarray) -> bytes:
        return np.array([0x0800 + values.ndim, *values.shape], ">i4").tobytes() + values.astype(np.uint8).tobytes()

    return {
        f"{name}-{kind}": idx(values)
        for name in ("train", "t10k")
        for kind, values in (
            ("images-idx3-ubyte", images + np.arange(count)[:, None, None]),
            ("labels-idx1-ubyte", labels),
        )
    }


def test_labelled_data_set_counts_its_examples(tmp_path, monkeypatch):
    for name, content in mnist(60).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=r"has 60 examples of train; mnist has 60,000.*--partial"):
        prepare_labelled(raw_files_loader("mnist", str(tmp_path)), str(tmp_path / "out"))
    monkeypatch.setattr(LABELLED_LOADERS["mnist"], "published", {"train": 60, "test": 60})
    made = prepare_labelled(raw_files_loader("mnist", str(tmp_path / "t*")), str(tmp_path / "out"))
    assert sum(made.splits["train"].class_counts) + sum(made.splits["validation"].class_counts) == 60


def test_labelled_data_sets_state_the_published_sizes():
    assert {name: tuple(kind.published.values()) for name, kind in LABELLED_LOADERS.items() if kind.published} == {
        "listops": (96_000, 2_000, 2_000),
        "imdb": (25_000, 25_000),
        "aan": (147_086, 18_090, 17_437),
        "mnist": (60_000, 10_000),
        "cifar10": (50_000, 10_000),
        "cifar10-colour": (50_000, 10_000),
        "speech-commands-35": (84_843, 9_981, 11_005),
    }


def test_speech_lists_of_another_release_are_refused(tmp_path):
    (tmp_path / "validation_list.txt").write_text("yes/1.wav\n")
    (tmp_path / "testing_list.txt").write_text("yes/2.wav\n")
    (tmp_path / "yes").mkdir()
    (tmp_path / "yes" / "3.wav").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"has 1 listed recordings of test; speech-commands-10 has 11,005"):
        list(raw_files_loader("speech-commands-10", str(tmp_path)).walk())


def test_partial_without_a_named_corpus_is_refused(texts, tmp_path):
    with pytest.raises(CorpusError, match="partial: only named corpora"):
        prepare(str(texts), str(tmp_path / "out"), partial=True)
