"""Raw data files that some machines have beside the repository."""

from pathlib import Path

import pytest

from vqscale.data.corpus import open_corpus
from vqscale.data.prepare import prepare

CORPORA = Path(__file__).resolve().parents[3] / "../shared/data/corpora"

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not CORPORA.is_dir(), reason="there is no folder shared/data/corpora beside the repository"),
]


def test_reference_beginning_of_enwik8_is_cut_by_bytes(tmp_path):
    source = CORPORA / "enwik8_first_4154400_bytes.xml.xz"
    manifest = prepare(str(source), str(tmp_path / "out"), loader="enwik8", partial=True)
    assert {name: record.bytes for name, record in manifest.splits.items()} == {
        "train": 3_738_960,
        "validation": 207_720,
        "test": 207_720,
    }
    tokens = open_corpus(str(tmp_path / "out")).split("train")
    assert tokens.corpus.tokenizer.decode(tokens.read(0, 11)) == b"<mediawiki "


def test_reference_logs_in_a_tar_are_documents(tmp_path):
    source = CORPORA / "elastic_kafka_broker_and_auth_logs.tar.xz"
    manifest = prepare(str(source), str(tmp_path / "out"), split="contiguous")
    assert sum(record.bytes for record in manifest.splits.values()) > 8e6
