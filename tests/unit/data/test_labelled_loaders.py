"""Loaders of labelled raw data files, on small files in the layouts of the releases."""

import gzip
import io
import struct
import tarfile
import wave
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqscale.data.corpus import open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.data.labelled.prepare import prepare_labelled
from vqscale.data.shards import SPLITS
from vqscale.data.tasks.catalogue import LABELLED_LOADERS, raw_files_loader
from vqscale.data.tasks.images import grey_pixels
from vqscale.data.tasks.listops import LISTOPS_SYMBOLS
from vqscale.errors import CorpusError


@pytest.fixture
def opened(tmp_path):
    """Prepares labelled raw data files, a small part of a published data set, and opens the corpus."""

    def make(name: str, uri: Path, out: str = "out", **options: object) -> LabelledCorpus:
        partial = bool(LABELLED_LOADERS[name].published) or name == "speech-commands-10"
        loader = raw_files_loader(name, str(uri), **({"partial": partial} | options))
        prepare_labelled(loader, str(tmp_path / out))
        corpus = open_corpus(str(tmp_path / out))
        assert isinstance(corpus, LabelledCorpus)
        return corpus

    return make


@pytest.fixture
def write(tmp_path):
    """Writes files, given by relative path, under one folder."""

    def make(files: dict[str, bytes], folder: str = "raw") -> Path:
        for name, content in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / folder

    return make


def packed(folder: Path) -> Path:
    target = folder.with_suffix(".tar.gz")
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, "package")
    return target


def texts(corpus: LabelledCorpus, name: str) -> dict[bytes, str]:
    """The texts of a split of byte tokens, with their classes."""
    split = corpus.split(name)
    examples = [split.example(index) for index in range(len(split))]
    return {bytes((one.tokens[0] - 3).astype(np.uint8)): corpus.classes[one.label] for one in examples}


FOLDERS = [f"{name}/{number}.txt" for name in ("cat", "dog") for number in range(60)]


def test_labelled_text_folders_are_classes_split_by_hash(opened, write):
    folder = write({name: f"text {name}".encode() for name in FOLDERS} | {"README": b"about"})
    corpus = opened("labelled-text", folder)
    assert (corpus.classes, corpus.labels, corpus.vocab_size) == (("cat", "dog"), "sequence", 259)
    found = {text: label for name in SPLITS for text, label in texts(corpus, name).items()}
    assert found == {f"text {name}".encode(): name.split("/")[0] for name in FOLDERS}
    assert len(corpus.split("train")) > 70
    packed_too = opened("labelled-text", packed(folder), "packed")
    assert packed_too.fingerprint == corpus.fingerprint


def test_labelled_text_folders_of_splits_are_kept(opened, write):
    names = [f"{split}/{name}" for split in ("train", "dev", "test") for name in FOLDERS[::20]]
    corpus = opened("labelled-text", write({name: f"{name} text".encode() for name in names}))
    for split, folder in zip(SPLITS, ("train", "dev", "test"), strict=True):
        assert {text.split(b"/")[0] for text in texts(corpus, split)} == {folder.encode()}


def test_labelled_text_without_validation_holds_a_seeded_share_of_train_out(opened, write):
    names = [f"train/{name}" for name in FOLDERS] + [f"test/{name}" for name in FOLDERS[::20]]
    folder = write({name: f"{name} text".encode() for name in names})
    first = opened("labelled-text", folder, "first", validation=0.3)
    other = opened("labelled-text", folder, "other", validation=0.3, seed=1)
    assert 20 <= len(first.split("validation")) <= 55
    assert len(first.split("train")) + len(first.split("validation")) == 120
    assert all(text.startswith(b"test/") for text in texts(first, "test"))
    assert texts(first, "validation") != texts(other, "validation")


def test_labelled_text_equal_texts_lie_in_one_split(opened, write):
    corpus = opened("labelled-text", write({name: b"text %d" % (number % 40) for number, name in enumerate(FOLDERS)}))
    found = [set(texts(corpus, name)) for name in SPLITS]
    assert sum(map(len, found)) == 40


def test_labelled_text_longer_than_length_is_cut(opened, write):
    corpus = opened("labelled-text", write({name: name.encode() * 9 for name in FOLDERS}), length=12)
    assert all(len(text) == 12 for name in SPLITS for text in texts(corpus, name))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat/1.txt", "cat/2.txt"], "fewer than two folders"),
        (["cat/1.txt", "dog/2.txt", "train/cat/3.txt"], "inside and outside"),
        (["train/cat/1.txt", "train/dog/2.txt"], "no test"),
    ],
)
def test_labelled_text_that_makes_no_task_is_refused(names, message, opened, write):
    with pytest.raises(CorpusError, match=message):
        opened("labelled-text", write({name: name.encode() for name in names}))


def test_imdb_reads_official_splits_and_no_unlabelled_reviews(opened, write):
    names = [
        f"aclImdb/{split}/{kind}/{n}_8.txt" for split in ("train", "test") for kind in ("pos", "neg") for n in range(40)
    ]
    unlabelled = {"aclImdb/train/unsup/1_0.txt": b"none", "aclImdb/train/urls_pos.txt": b"urls"}
    folder = write({name: f"review {name}".encode() for name in names} | unlabelled)
    corpus = opened("imdb", folder)
    test = texts(corpus, "test")
    assert len(test) == 80
    assert all((b"/pos/" in text) == (label == "positive") for text, label in test.items())
    assert len(corpus.split("train")) + len(corpus.split("validation")) == 80
    assert opened("imdb", packed(folder), "packed").fingerprint == corpus.fingerprint


def test_spam_assassin_reads_both_layouts_alike(opened, write):
    mails = {
        f"{group}/{number:05}.{number:032x}": f"mail {group} {number}".encode()
        for group in GROUPS
        for number in range(30)
    }
    of_npm = {f"data/{name}.txt": text for name, text in mails.items()}
    of_npm |= {f"data/{name}.json": b"{}" for name in mails} | {"data/file_list.json": b"[]"}
    of_apache = {name.replace("-1/", "/").replace("-", "_"): text for name, text in mails.items()}
    npm = opened("spam-assassin", packed(write(of_npm, "npm")), "npm-corpus")
    apache = opened("spam-assassin", write(of_apache, "apache"), "apache-corpus")
    for name in SPLITS:
        assert texts(npm, name) == texts(apache, name)
        assert all((b" spam-" in text) == (label == "spam") for text, label in texts(npm, name).items())
    assert sum(npm.manifest.splits[name].examples for name in SPLITS) == 150


GROUPS = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")


def test_listops_release_is_read_without_its_brackets(opened, write):
    row = b"( ( ( [MAX 3 ) ( ( ( [MIN 4 ) 9 ) ] ) ) ] )\t4\n"
    files = {f"basic_{split}.tsv": b"Source\tTarget\n" + row + b"7\t7\n" for split in ("train", "val", "test")}
    corpus = opened("listops", write(files))
    example = corpus.split("validation").example(0)
    assert [LISTOPS_SYMBOLS[token] for token in example.tokens[0]] == ["[MAX", "3", "[MIN", "4", "9", "]", "]"]
    assert (example.label, corpus.vocab_size) == (4, 16)


@pytest.mark.parametrize(
    ("name", "file", "row"),
    [("listops", "basic_{}.tsv", "{}\t{}\n"), ("aan", "new_aan_pairs.{}.tsv", "{}\tP1\tP2\tfirst {}\tsecond\n")],
)
def test_table_of_each_split_is_read_into_that_split(name, file, row, opened, write):
    third = "val" if name == "listops" else "eval"
    counts = {"train": 1, third: 2, "test": 3}
    both = row.format(0, 0) + row.format(1, 1)
    files = {file.format(split): (both * count).encode() for split, count in counts.items()}
    corpus = opened(name, write(files), length=20)
    assert {split: len(corpus.split(split)) for split in SPLITS} == {"train": 2, "validation": 4, "test": 6}


@pytest.mark.parametrize(
    ("row", "message"), [(b"[FIRST 3 ]\t3", r"line 2 has '\[FIRST'"), (b"3", "line 2 is no expression")]
)
def test_listops_release_that_is_damaged_is_refused_with_its_line(row, message, opened, write):
    with pytest.raises(CorpusError, match=message):
        opened("listops", write({"basic_train.tsv": b"Source\tTarget\n" + row + b"\n"}))


def test_aan_pairs_are_two_sequences(opened, write):
    def table(split: str) -> bytes:
        rows = [[f"{n % 2}.0", "P1", "P2", f"{split} first {n}", f'"second" quoted {n}'] for n in range(4)]
        return "".join("\t".join(row) + "\n" for row in rows).encode()

    files = {f"new_aan_pairs.{split}.tsv": table(split) for split in ("train", "eval", "test")}
    corpus = opened("aan", write(files), length=20)
    example = corpus.split("validation").example(1)
    first, second = (bytes((tokens - 3).astype(np.uint8)) for tokens in example.tokens)
    assert (first, second, example.label) == (b"eval first 1", b'"second" quoted 1', 1)
    assert corpus.sequences == 2


def test_aan_row_of_another_form_is_refused(opened, write):
    with pytest.raises(CorpusError, match="row 1 is not label"):
        opened("aan", write({"x.train.tsv": b"yes\tP1\tP2\ta\tb\n"}))


def idx(values: np.ndarray) -> bytes:
    header = np.array([0x0800 + values.ndim, *values.shape], ">i4")
    return header.tobytes() + values.astype(np.uint8).tobytes()


@pytest.fixture
def mnist() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    files = {}
    for name, count in (("train", 60), ("t10k", 12)):
        files[f"data/{name}-images-idx3-ubyte"] = idx(random.integers(0, 256, (count, 4, 4)))
        files[f"data/{name}-labels-idx1-ubyte"] = idx(np.arange(count) % 10)
    return files


def test_mnist_images_have_their_labels_and_pixels_above_the_padding(mnist, opened, write):
    folder = write(mnist)
    corpus = opened("mnist", folder)
    test = corpus.split("test")
    assert [test.example(index).label for index in range(12)] == [*range(10), 0, 1]
    image = np.frombuffer(mnist["data/t10k-images-idx3-ubyte"], np.uint8, 16, 16 + 16)
    assert (test.example(1).tokens[0] - 1).tolist() == image.tolist()
    assert len(corpus.split("train")) + len(corpus.split("validation")) == 60
    assert (corpus.vocab_size, corpus.real_inputs) == (257, False)
    compressed = write({f"{name}.gz": gzip.compress(content) for name, content in mnist.items()}, "compressed")
    assert opened("mnist", compressed, "second").fingerprint == corpus.fingerprint
    assert opened("mnist", packed(folder), "third").fingerprint == corpus.fingerprint
    assert opened("mnist", folder, "fourth", real_inputs=True).real_inputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data/train-labels-idx1-ubyte": None}, "no file of labels"),
        ({"data/train-labels-idx1-ubyte": idx(np.zeros(3))}, "60 images, but 3 labels"),
        ({"data/train-labels-idx1-ubyte": idx(np.full(60, 11))}, "has label 11"),
        ({"data/train-labels-idx1-ubyte": idx(np.zeros(0))}, r"sizes \[0\], and so holds nothing"),
        ({"data/train-images-idx3-ubyte": idx(np.zeros((60, 4, 4)))[:-1]}, "damaged or incomplete"),
        ({"data/train-images-idx3-ubyte": b"PNG and more than sixteen bytes"}, "no idx file"),
    ],
)
def test_mnist_that_is_damaged_is_refused(change, message, mnist, opened, write):
    files = {name: content for name, content in (mnist | change).items() if content is not None}
    with pytest.raises(CorpusError, match=message):
        opened("mnist", write(files))


@pytest.fixture
def cifar() -> dict[str, bytes]:
    random = np.random.default_rng(0)

    def batch(count: int) -> bytes:
        rows = random.integers(0, 256, (count, 3073))
        rows[:, 0] = np.arange(count) % 10
        return rows.astype(np.uint8).tobytes()

    return {"data_batch_1.bin": batch(20), "data_batch_2.bin": batch(20), "test_batch.bin": batch(5)}


def test_cifar_is_grey_by_luminance_and_colour_side_by_side(cifar, opened, write):
    folder = write(cifar | {"batches.meta.txt": b"airplane"})
    grey, colour = opened("cifar10", folder), opened("cifar10-colour", folder, "colour")
    planes = np.frombuffer(cifar["test_batch.bin"], np.uint8, 3072, 3073 + 1).reshape(3, 1024).astype(float)
    first, second = grey.split("test").example(1), colour.split("test").example(1)
    luminance = 0.2989 * planes[0] + 0.587 * planes[1] + 0.114 * planes[2]
    assert np.abs(first.tokens[0] - 1.0 - luminance).max() <= 0.5 + 1e-9
    assert (second.tokens[0] - 1).tolist() == planes.T.ravel().tolist()
    assert first.label == second.label == 1
    assert grey.classes[1] == "automobile"
    assert len(grey.split("train")) + len(grey.split("validation")) == 40


def test_cifar_as_pickles_or_cut_short_is_refused(cifar, opened, write):
    with pytest.raises(CorpusError, match="is a pickle"):
        opened("cifar10", write({"data_batch_1": b"\x80\x02"}, "pickled"))
    with pytest.raises(CorpusError, match="no row of labels"):
        opened("cifar10", write(cifar | {"test_batch.bin": cifar["test_batch.bin"][:-1]}, "short"))


def sound(samples: np.ndarray, channels: int = 1, rate: int = 16_000) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return target.getvalue()


@pytest.fixture
def speech() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    names = [f"{word}/{n}_nohash_0.wav" for word in ("yes", "no", "bed") for n in range(6)]
    files = {name: sound(random.integers(-(2**15), 2**15, 100)) for name in names}
    lists = {
        "validation_list.txt": b"yes/1_nohash_0.wav\nbed/1_nohash_0.wav\n",
        "testing_list.txt": b"no/2_nohash_0.wav\n",
    }
    return files | lists | {"_background_noise_/rain.wav": sound(np.zeros(5)), "README.md": b"about"}


def test_speech_is_a_waveform_in_its_official_split(speech, opened, write):
    folder = write(speech | {"no/2_nohash_0.wav": sound(np.array([-(2**15), 0, 2**15 - 1]))})
    corpus = opened("speech-commands-10", folder, length=50)
    test = corpus.split("test").example(0)
    assert test.tokens[0].tolist() == [0, 2**15, 2**16 - 1] + [2**15] * 47
    assert corpus.classes[test.label] == "no"
    assert {name: len(corpus.split(name)) for name in SPLITS} == {"train": 10, "validation": 1, "test": 1}
    assert (corpus.real_inputs, corpus.vocab_size, len(corpus.classes)) == (True, 2**16, 10)
    whole = opened("speech-commands-35", packed(folder), "whole", length=200)
    assert (len(whole.split("validation")), len(whole.classes)) == (2, 35)
    assert whole.split("train").lengths.tolist() == [200] * 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"testing_list.txt": b""}, "lacks validation_list.txt or testing_list.txt"),
    ],
)
def test_speech_that_cannot_be_read_is_refused(change, message, speech, opened, write):
    with pytest.raises(CorpusError, match=message):
        opened("speech-commands-10", write(speech | change))


def test_logs_hide_the_tag_and_label_every_line_end(opened, write):
    lines = [(f"{number} node{number} event", number % 5 == 0) for number in range(200)]
    content = "".join(f"{'KERNDTLB' if alert else '-'} {text}\n" for text, alert in lines)
    corpus = opened("labelled-logs", write({"BGL.log": content.encode()}), length=100)
    assert (corpus.labels, corpus.classes) == ("token", ("normal", "alert"))
    found = []
    for name in SPLITS:
        split = corpus.split(name)
        for index in range(len(split)):
            example = split.example(index)
            text = bytes((example.tokens[0] - 3).astype(np.uint8))
            assert len(text) <= 100
            assert [n for n, byte in enumerate(text) if byte == ord("\n")] == example.positions.tolist()
            found += zip(text.decode().splitlines(), (example.labels == 1).tolist(), strict=True)
    assert found == lines
    assert len(corpus.split("train")) > 0.7 * sum(len(corpus.split(name)) for name in SPLITS)


def test_logs_line_longer_than_the_window_is_cut_and_keeps_its_end(opened, write):
    lines = [(b"ERR " if number % 5 else b"- ") + bytes([97 + number % 26]) * 300 for number in range(20)]
    corpus = opened("labelled-logs", write({"x.log": b"\n".join(lines)}), length=64)
    example = corpus.split("train").example(1)
    assert bytes((example.tokens[0] - 3).astype(np.uint8)) == b"b" * 63 + b"\n"
    assert example.positions.tolist() == [63]


def test_logs_without_labels_are_refused_with_their_line(opened, write):
    with pytest.raises(CorpusError, match="line 2 has no label"):
        opened("labelled-logs", write({"x.log": b"- fine\nword\n"}))


@pytest.mark.parametrize("name", LABELLED_LOADERS)
def test_labelled_loader_of_other_files_is_refused(name, opened, write):
    with pytest.raises(CorpusError):
        opened(name, write({"a/b.bin": b"nothing of this"}))


def test_labelled_loader_refuses_options_that_mean_nothing_for_it():
    with pytest.raises(CorpusError, match=r"length: 100 has no meaning for mnist\. It takes partial, real_inputs"):
        raw_files_loader("mnist", "x", length=100)
    with pytest.raises(CorpusError, match="validation: "):
        raw_files_loader("imdb", "x", validation=1.5)


@pytest.mark.parametrize(
    ("name", "length"),
    [("imdb", 4000), ("aan", 4000), ("labelled-logs", 4096), ("speech-commands-35", 16_000), ("labelled-text", None)],
)
def test_default_length_is_that_of_the_published_task(name, length):
    # Long Range Arena reads 4000 bytes of a review or a paper; one second of speech is 16,000 samples
    assert raw_files_loader(name, "x").length == length


def test_labelled_loader_reads_zip_archives(mnist, opened, tmp_path):
    with zipfile.ZipFile(tmp_path / "mnist.zip", "w") as archive:
        for name, content in mnist.items():
            archive.writestr(name, content)
    assert len(opened("mnist", tmp_path / "mnist.zip").split("test")) == 12


def png(image: np.ndarray, kinds: list[int] | None = None) -> bytes:
    """A grey PNG whose lines are filtered by these kinds in turn (None: by Pillow's choice)."""
    if kinds is None:
        target = io.BytesIO()
        Image.fromarray(image).save(target, "png")
        return target.getvalue()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = b""
    padded = np.pad(image.astype(int), ((1, 0), (1, 0)))
    for row in range(len(image)):
        left, up, corner = padded[row + 1, :-1], padded[row, 1:], padded[row, :-1]
        nearest = np.abs(np.stack([left, up, corner]) - (left + up - corner)).argmin(0)
        paeth = np.choose(nearest, [left, up, corner])
        kind = kinds[row % len(kinds)]
        predicted = [0 * left, left, up, (left + up) // 2, paeth][kind]
        lines += bytes([kind]) + ((padded[row + 1, 1:] - predicted) % 256).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("kinds", [None, [0], [1], [2], [3], [4], [4, 2, 3, 1, 0]])
def test_png_of_any_filter_is_read(kinds):
    image = np.random.default_rng(0).integers(0, 256, (9, 7)).astype(np.uint8)
    assert np.array_equal(grey_pixels(png(image, kinds)), image)


@pytest.mark.parametrize(("mode", "file_format"), [("RGB", "png"), ("P", "png"), ("I;16", "png"), ("L", "bmp")])
def test_image_other_than_an_8_bit_grey_png_is_refused(mode, file_format):
    target = io.BytesIO()
    Image.new("L", (4, 4)).convert(mode).save(target, file_format)
    with pytest.raises(ValueError, match="not 8-bit grey" if file_format == "png" else "no PNG image"):
        grey_pixels(target.getvalue())


@pytest.mark.parametrize("side", [4097, 10_000, 30_000])
def test_image_that_claims_too_many_pixels_is_refused_before_it_is_decompressed(side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    claim = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    small = png(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="more than 16,777,216 pixels"):
        grey_pixels(small[:8] + claim + small[33:])


def test_image_that_ends_early_is_refused():
    with pytest.raises(ValueError, match="truncated"):
        grey_pixels(png(np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8))[:-100])


def test_pathfinder_release_has_the_labels_of_its_metadata(opened, write):
    random = np.random.default_rng(0)
    images = {f"imgs/{n % 2}/sample_{n}.png": random.integers(0, 256, (4, 4)).astype(np.uint8) for n in range(40)}
    lines = [f"{name.rsplit('/', 1)[0]} {name.rsplit('/', 1)[1]} {n} {n % 3 // 2} 1.0" for n, name in enumerate(images)]
    files = {"metadata/0.npy": "\n".join(lines).encode()} | {name: png(image) for name, image in images.items()}
    corpus = opened("pathfinder", write(files))
    labels = {(image.astype(int) + 1).tobytes(): n % 3 // 2 for n, image in enumerate(images.values())}
    found = 0
    for name in SPLITS:
        split = corpus.split(name)
        for index in range(len(split)):
            example = split.example(index)
            assert labels[example.tokens[0].astype(int).tobytes()] == example.label
            found += 1
    assert found == 40
    with pytest.raises(CorpusError, match="in no file of metadata"):
        opened("pathfinder", write(files | {"metadata/0.npy": lines[0].encode()}, "fewer"), "refused")
    with pytest.raises(CorpusError, match="line 1 is not folder, file"):
        opened("pathfinder", write(files | {"metadata/0.npy": b"\x93NUMPY"}, "binary"), "refused")
