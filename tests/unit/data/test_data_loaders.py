import io
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqscale.data.corpus import Corpus, open_corpus
from vqscale.data.loaders import ImageNet64, StandardLibrary
from vqscale.data.prepare import prepare
from vqscale.data.shards import SPLITS
from vqscale.errors import CorpusError


def documents(corpus: Corpus, split: str) -> list[bytes]:
    tokens = corpus.split(split)
    ids = tokens.read(0, len(tokens))
    return [corpus.tokenizer.decode(part) for part in np.split(ids, np.flatnonzero(ids == 1) + 1)[:-1]]


@pytest.mark.parametrize("name", ["enwik8", "text8"])
@pytest.mark.parametrize("packed", [False, True])
def test_loader_hutter_files_are_cut_by_bytes(tmp_path, name, packed):
    data = bytes(np.random.default_rng(0).integers(0, 256, size=100_000).astype(np.uint8))
    source = tmp_path / (f"{name}.zip" if packed else name)
    if packed:
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)
    else:
        source.write_bytes(data)
    prepare(str(source), str(tmp_path / "out"), loader=name, partial=True)
    corpus = open_corpus(str(tmp_path / "out"))
    assert [documents(corpus, split) for split in SPLITS] == [[data[:90_000]], [data[90_000:95_000]], [data[95_000:]]]


def make_pg19(folder, splits=SPLITS) -> None:
    for split in splits:
        (folder / split).mkdir(parents=True)
        for book in (11, 7):
            (folder / split / f"{book}.txt").write_text(f"Book {book} of {split}.\nIt has eight words — and signs.\n")
    (folder / "metadata.csv").write_text("7,title")


def test_loader_pg19_keeps_its_splits_and_counts_words(tmp_path):
    make_pg19(tmp_path / "pg19")
    manifest = prepare(str(tmp_path / "pg19"), str(tmp_path / "out"), loader="pg19", partial=True)
    corpus = open_corpus(str(tmp_path / "out"))
    for split in SPLITS:
        texts = documents(corpus, split)
        assert [text.split(b" of ")[0] for text in texts] == [b"Book 11", b"Book 7"]
        assert all(split.encode() in text for text in texts)
        assert (manifest.splits[split].words, manifest.splits[split].lines) == (2 * 12 - 2, 4)


def test_loader_pg19_missing_split_is_named(tmp_path):
    make_pg19(tmp_path / "pg19", ("train", "test"))
    with pytest.raises(CorpusError, match=r"pg19/validation/\*.txt"):
        prepare(str(tmp_path / "pg19"), str(tmp_path / "out"), loader="pg19")


ARTICLES = [
    " = First Title = \n \n Some text , with @-@ signs . \n \n = = Section = = \n \n x = y = z \n \n",
    " = Second <unk> = \n \n More text \n = Not a Title = \n \n",
]
WIKITEXT = " \n" + "".join(ARTICLES)
EXPECTED = [(" \n" + ARTICLES[0]).encode(), ARTICLES[1].encode()]


@pytest.mark.parametrize("suffix", ["tokens", "raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_loader_wikitext_articles_are_documents(tmp_path, suffix, packed):
    (tmp_path / "in").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "in" / f"wiki.{split}.{suffix}").write_text(WIKITEXT)
    (tmp_path / "in" / "README.txt").write_bytes(b"\xff")
    source = tmp_path / "in"
    if packed:
        source = tmp_path / "wikitext-103-v1.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in (tmp_path / "in").iterdir():
                archive.write(path, f"wikitext-103/{path.name}")
    manifest = prepare(str(source), str(tmp_path / "out"), loader="wikitext103", partial=True)
    corpus = open_corpus(str(tmp_path / "out"))
    assert [documents(corpus, split) for split in SPLITS] == [EXPECTED] * 3
    record = manifest.splits["test"]
    assert (record.words, record.lines) == (len(WIKITEXT.split()), WIKITEXT.count("\n"))


def test_loader_wikitext_parquet_gives_the_same_text(tmp_path):
    (tmp_path / "in").mkdir()
    rows = [line if line.strip() else "" for line in WIKITEXT.splitlines(keepends=True)]
    for split in SPLITS:
        pq.write_table(pa.table({"text": rows}), tmp_path / "in" / f"{split}-00000-of-00001.parquet")
    options = {"tokenizer": "bpe", "vocab_size": 280, "partial": True}
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), loader="wikitext103", **options)
    corpus = open_corpus(str(tmp_path / "out"))
    assert [documents(corpus, split) for split in SPLITS] == [EXPECTED] * 3


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(count, 12288)).astype(np.uint8)


def test_loader_imagenet64_interleaves_the_planes(tmp_path):
    for batch in (1, 2, 10):
        np.savez_compressed(tmp_path / f"train_data_batch_{batch}.npz", data=images(2, batch), labels=np.zeros(2))
    np.savez(tmp_path / "val_data.npz", data=images(1, 99))
    prepare(ImageNet64(str(tmp_path), partial=True, train_images=3), str(tmp_path / "out"))
    corpus = open_corpus(str(tmp_path / "out"))
    rows = np.concatenate([images(2, 1), images(2, 2), images(2, 10), images(1, 99)])
    expected = [row.reshape(3, 64, 64).transpose(1, 2, 0).tobytes() for row in rows]
    assert [documents(corpus, split) for split in SPLITS] == [expected[:3], expected[3:6], expected[6:]]


def test_loader_imagenet64_zip_is_opened(tmp_path):
    with zipfile.ZipFile(tmp_path / "Imagenet64_train_part1_npz.zip", "w") as archive:
        for name, count in {"train_data_batch_1.npz": 2, "val_data.npz": 1}.items():
            buffer = io.BytesIO()
            np.savez(buffer, data=images(count, 0))
            archive.writestr(name, buffer.getvalue())
    pieces = list(ImageNet64(str(tmp_path), partial=True, train_images=1).pieces())
    assert [piece.split for piece in pieces] == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_data_batch_1", {"data": 1}, "is a pickle, .* npz files"),
        ("train_data_batch_1.npz", {"labels": images(1, 0)}, "no array 'data'"),
        ("train_data_batch_1.npz", {"data": images(1, 0)[:, :100]}, "not uint8 rows of 12288"),
        ("train_data_batch_1.npz", {"data": images(1, 0).astype(np.float32)}, "holds float32"),
        ("train_data_batch_1.npz", {"data": np.array([{}], dtype=object)}, "not uint8 rows|no readable array"),
    ],
)
def test_loader_imagenet64_other_files_are_refused(tmp_path, name, content, message):
    if name.endswith("npz"):
        np.savez(tmp_path / name, **content)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(CorpusError, match=message):
        prepare(str(tmp_path), str(tmp_path / "out"), loader="imagenet64")


def test_loader_imagenet64_needs_the_bytes_tokenizer(tmp_path):
    np.savez(tmp_path / "train_data_batch_1.npz", data=images(2, 0))
    with pytest.raises(CorpusError, match="--tokenizer bytes"):
        prepare(str(tmp_path), str(tmp_path / "out"), loader="imagenet64", tokenizer="bpe", vocab_size=300)


def test_loader_stdlib_is_real_text_of_this_python():
    source = StandardLibrary()
    names = [file.path for file in source.files()]
    assert names == sorted(names)
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert not any(part in {"test", "tests", "site-packages"} for name in names for part in name.split("/"))
    assert sum(file.size for file in source.files()) > 5e6
    first = next(piece for piece in source.pieces() if piece.data)
    assert first.last
    assert b"import" in first.data
