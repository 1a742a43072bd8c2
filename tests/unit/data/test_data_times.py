"""Splits by time: times are read from records and lines, and no split holds a time of an earlier or later one."""

import json
import lzma
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqscale.data.corpus import open_text
from vqscale.data.prepare import prepare
from vqscale.data.shards import SPLITS
from vqscale.data.times import LogClock, Timeline, moment
from vqscale.errors import CorpusError

AT = datetime(2024, 1, 31, 23, 59, 58, tzinfo=UTC).timestamp()


def texts(folder: Path) -> dict[str, str]:
    corpus = open_text(str(folder))
    return {
        name: corpus.tokenizer.decode(corpus.split(name).read(0, len(corpus.split(name)))).decode() for name in SPLITS
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-01-31T23:59:58Z", AT),
        ("2024-01-31 23:59:58", AT),
        ("2024-02-01T01:59:58+02:00", AT),
        ("2024-01-31T18:29:58.250-0530", AT + 0.25),
        ("2024-01-31", AT - 86_398),
        ("31/Jan/2024:23:59:58 +0000", AT),
        ("Wed Jan 31 23:59:58 2024", None),
        ("1706745598", AT),
        (1706745598, AT),
        (1706745598.5, AT + 0.5),
        (1706745598500, AT + 0.5),
        (1706745598500000, AT + 0.5),
        (datetime(2024, 1, 31, 23, 59, 58), AT),
        ("yesterday", None),
        ("2024-02-31 00:00:00", None),
        ("", None),
        (None, None),
        (True, None),
        (-5, None),
        (float("nan"), None),
    ],
)
def test_moment_of_a_record_is_read_in_utc(value, expected):
    assert moment(value) == (None if expected is None else pytest.approx(expected, abs=1e-6))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2024-01-31T23:59:58.5Z host app: started", AT + 0.5),
        ("2024-01-31 23:59:58,250 INFO started", AT + 0.25),
        ("[2024-01-31 23:59:58,250] INFO [GroupCoordinator 1]", AT + 0.25),
        ("<34>1 2024-01-31T23:59:58.003+00:00 host app - -", AT + 0.003),
        ("2024/01/31 23:59:58 [error] 12#12: open() failed", AT),
        ('10.0.0.1 - - [31/Jan/2024:23:59:58 +0000] "GET / HTTP/1.1" 200', AT),
        ("[Wed Jan 31 23:59:58 2024] [notice] workerEnv.init() ok", AT),
        ("[Wed Jan 31 23:59:58.250000 2024] [core:notice] AH00094", AT + 0.25),
        ("1706745598 2024.01.31 R02-M1-N0 event", AT),
        ("- 1706745598 2024.01.31 R02 2024-01-31-23.59.58.250000 R02 RAS", AT + 0.25),
        ("240131 235958 148 INFO dfs.DataNode$PacketResponder: done", AT),
        ("20240131-23:59:58:250|Step_LSC|30002312", AT + 0.25),
        ('{"time": "2024-01-31T23:59:58Z", "msg": "x"}', AT),
        ("1706745598.250 12 TCP_MISS/200", AT + 0.25),
        ("2024-02-01 00:59:58.5+01 LOG:  checkpoint complete", AT + 0.5),
        ("2024-01-31 23:59:58 -12 dBm measured", AT),
        ("api.log.1.2017-05-16_13:53:08 2024-01-31 23:59:58.008 25746 INFO", AT + 0.008),
        ("31.01.2024 23:59:58 Dienst gestartet", AT),
        ("- 1706745598 2024.01.31 dn228 Jan 31 23:59:58 dn228/dn228 crond", AT),
    ],
)
def test_log_line_has_the_time_at_its_beginning(line, expected):
    clock = LogClock()
    data = f"{line}\n".encode()
    clock.start(data, "a.log")
    assert list(clock.runs(data)) == [(pytest.approx(expected, abs=1e-6), 0, len(data))]


@pytest.mark.parametrize(
    "line",
    ["01/02/2024 10:00:00 x", "17/06/09 20:10:40 INFO", "2024-01-31 11:59:58 PM x", "x" * 80 + "2024-01-31 10:00:00"],
)
def test_log_line_whose_time_could_mean_two_things_or_is_far_is_not_guessed(line):
    with pytest.raises(CorpusError, match="has no line that begins with a time"):
        LogClock().start(f"{line}\n".encode(), "a.log")


def test_log_line_without_a_time_belongs_to_the_line_before():
    data = b"banner\n2024-01-31 23:59:58 one\n  at Main.java:3\n2024-01-31 23:59:59 two 2020-01-01 00:00:00\n"
    clock = LogClock()
    clock.start(data, "a.log")
    runs = [(at - AT, data[start:end]) for at, start, end in clock.runs(data)]
    lines = data.splitlines(keepends=True)
    assert runs == [(0, lines[0]), (0, lines[1] + lines[2]), (1, lines[3])]


def test_log_without_times_is_refused_by_its_name(tmp_path):
    (tmp_path / "a.log").write_text("no time here\n" * 50)
    (tmp_path / "b.log").write_text("2024-01-01 00:00:00 x\n" * 50)
    with pytest.raises(CorpusError, match=r"split: .*/a.log has no line that begins with a time .*--split contiguous"):
        prepare(str(tmp_path / "*.log"), str(tmp_path / "out"), split="time")


def stamp(minute: int) -> str:
    return (datetime(2024, 3, 1) + timedelta(minutes=minute)).strftime("%Y-%m-%d %H:%M:%S")


def test_logs_of_several_hosts_and_rotations_are_split_at_the_same_times(tmp_path):
    """The names of rotated logs run against time, and two hosts write at once: an order of files would leak."""
    (tmp_path / "in").mkdir()
    for host, shift in (("a", 0), ("b", 1)):
        lines = [f"{stamp(2 * n + shift)} {host} event {n}\n  detail {n}\n" for n in range(300)]
        for index, part in enumerate((lines[200:], lines[100:200], lines[:100])):
            name = f"{host}.log" + (f".{index}" if index else "")
            (tmp_path / "in" / name).write_text("".join(part))
    manifest = prepare(str(tmp_path / "in"), str(tmp_path / "out"), split="time", fractions=(0.8, 0.1, 0.1))
    found = texts(tmp_path / "out")
    times = {name: [line[:19] for line in text.splitlines() if line[:2] == "20"] for name, text in found.items()}
    assert max(times["train"]) < min(times["validation"]) <= max(times["validation"]) < min(times["test"])
    assert {name: len(found[name].splitlines()) for name in SPLITS} == pytest.approx(
        {"train": 960, "validation": 120, "test": 120}, abs=12
    )
    assert sorted("".join(found.values())) == sorted("".join(p.read_text() for p in (tmp_path / "in").iterdir()))
    assert manifest.source.split_by == "time"
    assert manifest.source.split_times[0] == f"{stamp(0)}Z"
    assert manifest.source.split_times[1] == f"{min(times['validation'])}Z"
    assert manifest.source.split_times[2:] == (f"{min(times['test'])}Z", f"{stamp(599)}Z")


def write_records(folder: Path, kind: str, count: int = 400) -> Path:
    rows = [{"at": stamp(n * 7 % count), "text": f"event {n * 7 % count:03}"} for n in range(count)]
    path = folder / f"a.{kind}"
    if kind == "parquet":
        times = [datetime.fromisoformat(row["at"]) for row in rows]
        pq.write_table(pa.table({"at": pa.array(times, pa.timestamp("us")), "text": [r["text"] for r in rows]}), path)
    elif kind == "csv":
        path.write_text("at;text\n" + "".join(f"{row['at']};{row['text']}\n" for row in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_records_are_split_by_their_time_column_whatever_their_order(tmp_path, kind, tokenizer):
    options = {"tokenizer": tokenizer, "vocab_size": 262 if tokenizer == "bpe" else None}
    path = write_records(tmp_path, kind)
    manifest = prepare(str(path), str(tmp_path / "out"), split="time", time_column="at", **options)
    found = {name: sorted(text.split("event ")[1:]) for name, text in texts(tmp_path / "out").items()}
    assert found == {
        "train": [f"{n:03}" for n in range(360)],
        "validation": [f"{n:03}" for n in range(360, 380)],
        "test": [f"{n:03}" for n in range(380, 400)],
    }
    assert manifest.source.split_times[1] == f"{stamp(360)}Z"
    by_hash = prepare(str(path), str(tmp_path / "hash"), **options)
    assert manifest.fingerprint != by_hash.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "time"}, "time_column: .* holds records. Name the column of their time"),
        ({"time_column": "at"}, "time_column: 'at' is read only for --split time"),
        ({"split": "time", "time_column": "text"}, r"line 1 has no time in 'text' that can be read"),
        ({"split": "time", "time_column": "when"}, r"line 1 has no time in 'when' that can be read"),
    ],
)
def test_time_column_that_does_not_fit_is_refused(tmp_path, options, message):
    with pytest.raises(CorpusError, match=message):
        prepare(str(write_records(tmp_path, "jsonl")), str(tmp_path / "out"), **options)


def test_records_without_a_time_are_left_out_when_asked(tmp_path):
    path = write_records(tmp_path, "jsonl")
    path.write_text(path.read_text() + '{"text": "timeless"}\n')
    manifest = prepare(str(path), str(tmp_path / "out"), split="time", time_column="at", errors="skip")
    assert manifest.source.left_out.unreadable == 1
    assert "timeless" not in "".join(texts(tmp_path / "out").values())


def test_times_without_a_year_pass_the_new_year_in_one_log(tmp_path):
    days = [datetime(2023, 11, 1) + timedelta(hours=4 * n) for n in range(600)]
    lines = [f"{day:%b} {day.day:2} {day:%H:%M:%S} host app: event {n}\n" for n, day in enumerate(days)]
    (tmp_path / "a.log").write_text("".join(lines))
    manifest = prepare(str(tmp_path / "a.log"), str(tmp_path / "out"), split="time")
    assert "".join(texts(tmp_path / "out").values()) == "".join(lines)
    assert manifest.source.split_times[0] == "Nov 01 00:00:00 of year 1"
    assert manifest.source.split_times[3].endswith("of year 2")
    (tmp_path / "b.log").write_text("".join(lines))
    with pytest.raises(CorpusError, match="have no year and reach over a new year"):
        prepare(str(tmp_path / "*.log"), str(tmp_path / "both"), split="time")


def test_times_with_and_without_a_year_are_not_compared(tmp_path):
    (tmp_path / "a.log").write_text("".join(f"{stamp(n)} x\n" for n in range(50)))
    (tmp_path / "b.log").write_text("".join(f"Mar  1 00:{n:02}:00 host x\n" for n in range(50)))
    with pytest.raises(CorpusError, match=r"have a year, those of others \(such as .*\) have none"):
        prepare(str(tmp_path / "*.log"), str(tmp_path / "out"), split="time")


def test_equal_times_are_in_one_split(tmp_path):
    (tmp_path / "a.log").write_text("".join(f"{stamp(n // 40)} event {n}\n" for n in range(200)))
    prepare(str(tmp_path / "a.log"), str(tmp_path / "out"), split="time", fractions=(0.5, 0.25, 0.25))
    lines = {name: len(text.splitlines()) for name, text in texts(tmp_path / "out").items()}
    assert lines == {"train": 80, "validation": 80, "test": 40} or lines == {"train": 120, "validation": 40, "test": 40}


def test_too_few_different_times_are_refused(tmp_path):
    (tmp_path / "a.log").write_text("".join(f"{stamp(n // 100)} event {n}\n" for n in range(200)))
    with pytest.raises(CorpusError, match="there are 2 different times, but three splits need three"):
        prepare(str(tmp_path / "a.log"), str(tmp_path / "out"), split="time")


def test_timeline_keeps_its_bins_few_and_its_cuts_near(monkeypatch):
    monkeypatch.setattr("vqscale.data.times._MOST_BINS", 5000)
    timeline = Timeline()
    for number in range(100_000):
        timeline.add(AT + 0.37 * number, 10)
    cuts = timeline.cuts((0.8, 0.1, 0.1))
    assert cuts.validation * cuts.width == pytest.approx(AT + 0.37 * 80_000, abs=2 * cuts.width)
    assert cuts.test * cuts.width == pytest.approx(AT + 0.37 * 90_000, abs=2 * cuts.width)
    assert cuts.width < 37_000 / 300
    assert [cuts.split_of(cuts.validation * cuts.width + add) for add in (-1e-3, 1e-3)] == ["train", "validation"]


LINUX = Path(__file__).resolve().parents[3] / "../shared/data/corpora/loghub_full_Linux.log.xz"


@pytest.mark.reference
@pytest.mark.skipif(not LINUX.is_file(), reason="there is no folder shared/data/corpora beside the repository")
def test_reference_log_over_a_new_year_is_split_in_its_order(tmp_path):
    """Some of its bytes are no UTF-8, as in many real logs."""
    manifest = prepare(str(LINUX), str(tmp_path / "out"), split="time", errors="replace")
    assert "".join(texts(tmp_path / "out").values()) == lzma.decompress(LINUX.read_bytes()).decode("utf-8", "replace")
    assert manifest.source.left_out.bytes_replaced > 0
    assert manifest.source.split_times[0].startswith("Jun")


def test_times_with_and_without_a_zone_are_noted(tmp_path):
    (tmp_path / "a.log").write_text("".join(f"{stamp(n)} x\n" for n in range(50)))
    assert prepare(str(tmp_path / "a.log"), str(tmp_path / "one"), split="time").source.notes == ()
    (tmp_path / "b.log").write_text("".join(f"{stamp(n)}+01:00 x\n" for n in range(50)))
    [note] = prepare(str(tmp_path / "*.log"), str(tmp_path / "both"), split="time").source.notes
    assert "taken as UTC" in note
