import numpy as np
import pytest

from vqscale.data.tokenize import EOS, PAD, UNK, BpeTokenizer, ByteTokenizer, dtype_name, load_tokenizer, train_bpe
from vqscale.errors import CorpusError

TEXTS = [
    "the cat sat on the mat\n" * 30,
    "the <eos> of the matter: Grüße 日本 🙂\n" * 10,
    "def the_function(x):\n\treturn x\n" * 20,
]


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return train_bpe(TEXTS, 300)


def test_bytes_ids_are_bytes_after_the_specials():
    tokenizer = ByteTokenizer()
    assert (PAD, EOS, UNK, tokenizer.vocab_size) == (0, 1, 2, 259)
    assert tokenizer.encode(b"\x00a\xff").tolist() == [3, 100, 258]
    assert tokenizer.token_bytes.tolist() == [0, 0, 0] + [1] * 256


def test_bytes_round_trip_keeps_everything_but_specials():
    tokenizer = ByteTokenizer()
    every = bytes(range(256))
    ids = np.concatenate([[EOS], tokenizer.encode(every), [PAD, UNK]])
    assert tokenizer.decode(ids) == every


def test_bpe_round_trip_is_lossless(bpe):
    for text in (*TEXTS, "never seen: Ωμέγα\r\n\x00\t  two  spaces "):
        ids = bpe.encode(text.encode())
        assert bpe.decode(ids) == text.encode()
        assert bpe.token_bytes[ids].sum() == len(text.encode())


def test_bpe_learns_merges(bpe):
    assert bpe.vocab_size == 300
    assert len(bpe.encode(TEXTS[0].encode())) < len(TEXTS[0]) / 2
    assert bpe.token_bytes[:3].tolist() == [0, 0, 0]
    assert bpe.token_bytes[3:].min() == 1


def test_bpe_literal_special_is_text(bpe):
    ids = bpe.encode(b"<eos><pad><unk>")
    assert ids.min() > UNK
    assert bpe.decode(ids) == b"<eos><pad><unk>"


def test_bpe_training_is_deterministic(bpe):
    assert train_bpe(TEXTS, 300).serialised == bpe.serialised


def test_bpe_reloaded_gives_the_same_ids(bpe):
    again = load_tokenizer("bpe", bpe.serialised)
    assert again.encode(b"the matter").tolist() == bpe.encode(b"the matter").tolist()
    assert again.vocab_size == bpe.vocab_size


def test_bpe_small_text_gets_a_smaller_vocabulary():
    assert 259 < train_bpe(["abababab"], 5000).vocab_size < 300


def test_bpe_without_room_for_merges_is_refused():
    with pytest.raises(CorpusError, match="vocab_size: 259"):
        train_bpe(TEXTS, 259)


def test_bpe_other_bytes_are_refused(bpe):
    with pytest.raises(CorpusError, match="bpe works on UTF-8 text"):
        bpe.encode(b"\xff\xfe")


def test_bpe_missing_file_is_named():
    with pytest.raises(CorpusError, match=r"tokenizer\.json"):
        load_tokenizer("bpe", None)


@pytest.mark.parametrize(("size", "name"), [(259, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_dtype_is_the_narrowest(size, name):
    assert dtype_name(size) == name
