"""Text to token ids and back: raw bytes, or byte-pair encoding trained on the corpus.

Both are lossless, and both reserve the ids 0 (padding), 1 (end of a document) and 2 (unknown), as the byte-level recipe
of Transformer-VQ does (its vocabulary: 3 + 256).
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vqscale.errors import CorpusError

PAD, EOS, UNK = 0, 1, 2
SPECIALS = 3
BYTE_VOCAB = SPECIALS + 256

TokenizerName = Literal["bytes", "bpe"]
Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


class Tokenizer(Protocol):
    """Turns UTF-8 text into ids and back; `token_bytes[id]` is the number of bytes of text of an id."""

    name: TokenizerName

    @property
    def vocab_size(self) -> int: ...

    @property
    def token_bytes(self) -> npt.NDArray[np.int64]: ...

    def encode(self, text: bytes) -> Ids: ...

    def decode(self, ids: npt.NDArray[Any]) -> bytes: ...


def dtype_name(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smaller of the two types of shards that holds all ids."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


class ByteTokenizer:
    """An id is a byte plus three. Any bytes are valid text, images included."""

    name: TokenizerName = "bytes"
    vocab_size = BYTE_VOCAB

    @cached_property
    def token_bytes(self) -> npt.NDArray[np.int64]:
        return (np.arange(BYTE_VOCAB) >= SPECIALS).astype(np.int64)

    def encode(self, text: bytes) -> npt.NDArray[np.uint16]:
        return np.frombuffer(text, dtype=np.uint8).astype(np.uint16) + np.uint16(SPECIALS)

    def decode(self, ids: npt.NDArray[Any]) -> bytes:
        """The bytes of `ids`; special ids have no text."""
        kept = ids[ids >= SPECIALS]
        return (kept - SPECIALS).astype(np.uint8).tobytes()


class BpeTokenizer:
    """Byte-level byte-pair encoding; its JSON is the format of Hugging Face `tokenizers`."""

    name: TokenizerName = "bpe"

    def __init__(self, serialised: str) -> None:
        import tokenizers  # loaded here: a corpus of bytes does not need it

        self.serialised = serialised
        self._model = tokenizers.Tokenizer.from_str(serialised)
        # Text may contain the literal characters "<eos>"; they are text, not the end of a document.
        self._model.encode_special_tokens = True

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    @cached_property
    def _pieces(self) -> list[bytes]:
        """The bytes of every id; special ids have none."""
        alphabet = _byte_of_character()
        vocabulary: dict[str, int] = self._model.get_vocab()
        ordered = sorted(vocabulary, key=vocabulary.__getitem__)
        return [b""] * SPECIALS + [bytes(alphabet[character] for character in token) for token in ordered[SPECIALS:]]

    @cached_property
    def token_bytes(self) -> npt.NDArray[np.int64]:
        return np.array([len(piece) for piece in self._pieces], dtype=np.int64)

    def encode(self, text: bytes) -> Ids:
        """Ids of `text`, which must be UTF-8 (CorpusError otherwise)."""
        encoded = self._model.encode(decode_text(text), add_special_tokens=False)
        return np.array(encoded.ids, dtype=dtype_name(self.vocab_size))

    def decode(self, ids: npt.NDArray[Any]) -> bytes:
        """The bytes of `ids`; special ids have no text."""
        pieces = self._pieces
        return b"".join([pieces[token] for token in ids.tolist()])


def decode_text(text: bytes) -> str:
    """`text` as a string; CorpusError if it is not UTF-8 (images, or a corpus read with `--encoding binary`)."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"tokenizer: bpe works on UTF-8 text, but the source holds other bytes ({error.reason}). "
            "Use --tokenizer bytes."
        ) from error


def train_bpe(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Learn at most `vocab_size` ids (3 specials, 256 bytes, merges) from `texts`, read once, in constant memory."""
    if vocab_size <= BYTE_VOCAB:
        raise CorpusError(
            f"vocab_size: {vocab_size} leaves no ids for merges. "
            f"bpe needs more than {BYTE_VOCAB} (3 specials, 256 bytes)."
        )
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<pad>", "<eos>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return BpeTokenizer(model.to_str())


def load_tokenizer(name: TokenizerName, serialised: str | None) -> Tokenizer:
    """The tokenizer of a corpus; `serialised` is the text of its `tokenizer.json`, which only bpe has."""
    if name == "bytes":
        return ByteTokenizer()
    if serialised is None:
        raise CorpusError("tokenizer: a bpe corpus needs its tokenizer.json. Prepare the corpus again.")
    return BpeTokenizer(serialised)


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE (GPT-2): printable Latin-1 bytes are themselves, the others 256, 257, ..."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    shown = {chr(byte): byte for byte in visible}
    return shown | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}
