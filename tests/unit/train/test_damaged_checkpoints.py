"""Damaged checkpoints and metrics: the trial resumes from what is whole, says what is not, and ends the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from local_host import LocalHost

from vqscale import storage
from vqscale.errors import StorageError, StudyInterruptedError
from vqscale.models.build import build
from vqscale.results.metrics_rows import Row, read_rows
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train import checkpoint
from vqscale.train.checkpoint_files import CHECKPOINT_MANIFEST
from vqscale.train.engine import ParameterGroups, import_deepspeed
from vqscale.train.trial import TrialOutcome, run_trial

OPTIONS = RunOptions(log_every=2, checkpoint_every=4)
CPU = torch.device("cpu")
Damage = Callable[[Path], object]


def run(trial: Trial, folder: Path, host: LocalHost | None = None, **options: Any) -> TrialOutcome:
    return run_trial(trial, str(folder), OPTIONS.model_copy(update=options), host or LocalHost(device=CPU))


def edited(**changes: Any) -> Damage:
    """A manifest with other values; None removes a key."""

    def edit(path: Path) -> None:
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return edit


def edited_progress(**changes: Any) -> Damage:
    def edit(path: Path) -> None:
        values = json.loads(path.read_text())
        values["progress"] = {k: v for k, v in (values["progress"] | changes).items() if v is not None}
        path.write_text(json.dumps(values))

    return edit


def edited_file(**changes: Any) -> Damage:
    def edit(path: Path) -> None:
        values = json.loads(path.read_text())
        values["files"][0] |= changes
        path.write_text(json.dumps(values))

    return edit


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("else")


MANIFESTS: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "not UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b"trial", b"tr\xffal")),
    "deeply nested": lambda path: path.write_text("[" * 100_000),
    "null": lambda path: path.write_text("null"),
    "list": lambda path: path.write_text("[1, 2]"),
    "number": lambda path: path.write_text("7"),
    "string": lambda path: path.write_text('"manifest"'),
    "folder": a_folder,
    "no files": edited(files=[]),
    "files missing": edited(files=None),
    "files no list": edited(files={"name": "engine.pt"}),
    "step as text": edited(step="8"),
    "step of another folder": edited(step=4),
    "negative step": edited(step=-8),
    "no workers": edited(world=0),
    "another trial": edited(trial="0" * 64),
    "newer key": edited(invented=1),
    "progress is a list": edited(progress=[1]),
    "no seconds": edited_progress(seconds=None),
    "seconds as text": edited_progress(seconds="long"),
    "seconds are NaN": edited_progress(seconds=float("nan")),
    "negative memory": edited_progress(peak_memory=-1),
    "path outside": edited_file(name="../../../../victim"),
    "absolute path": edited_file(name="/etc/passwd"),
    "name of a folder": edited_file(name="."),
    "missing file": edited_file(name="absent.pt"),
    "wrong size": edited_file(size=1),
    "negative size": edited_file(size=-1),
    "no sha256": edited_file(sha256="abc"),
    "same file twice": edited_file(name="rank-00000.pt"),
}


@pytest.fixture(scope="module")
def cut(make_trial: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, Path, TrialOutcome]:
    """A trial that was interrupted with checkpoints of its steps 4 and 8, and the same trial without interruption."""
    trial, folder = make_trial(model={"dropout_residual": 0.2}), tmp_path_factory.mktemp("cut")
    whole = run(trial, folder / "whole")
    with pytest.raises(StudyInterruptedError):
        run(trial, folder / "cut", LocalHost(device=CPU, leave_after=8))
    assert [Path(uri).name for uri in checkpoint.complete(str(folder / "cut" / "checkpoints"))] == [
        "step-00000008",
        "step-00000004",
    ]
    return trial, folder, whole


def copy(cut: tuple[Trial, Path, TrialOutcome], target: Path) -> Path:
    shutil.copytree(cut[1] / "cut", target / "trial")
    return target / "trial"


def assert_same_trial(cut: tuple[Trial, Path, TrialOutcome], folder: Path, outcome: TrialOutcome) -> None:
    whole = cut[1] / "whole"
    weights = [safetensors.torch.load_file(one / "model.safetensors") for one in (whole, folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert outcome.held_out == cut[2].held_out
    assert [losses(one) for one in (folder,)] == [losses(whole)]


def losses(folder: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_rows(str(folder))]


@pytest.mark.parametrize("damage", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_damaged_manifest_is_named_and_the_checkpoint_before_is_used(damage: Damage, cut: Any, tmp_path: Path) -> None:
    folder = copy(cut, tmp_path)
    damage(folder / "checkpoints" / "step-00000008" / CHECKPOINT_MANIFEST)
    host = LocalHost(device=CPU)
    outcome = run(cut[0], folder, host)
    (warning,) = host.warnings
    assert "step-00000008 is not used: " in warning
    assert host.rows[0]["step"] == 6  # from step 4 on
    assert_same_trial(cut, folder, outcome)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["engine.pt", "rank-00000.pt"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "binary", "folder", "removed"])
def test_damaged_part_of_a_checkpoint_is_named_and_the_one_before_is_used(
    damage: str, name: str, cut: Any, tmp_path: Path
) -> None:
    folder = copy(cut, tmp_path)
    part = folder / "checkpoints" / "step-00000008" / name
    (MANIFESTS | {"removed": Path.unlink})[damage](part)
    host = LocalHost(device=CPU)
    outcome = run(cut[0], folder, host)
    assert len(host.warnings) == 1
    assert name in host.warnings[0]
    assert_same_trial(cut, folder, outcome)


def test_step_folder_that_is_a_file_is_written_over(cut: Any, tmp_path: Path) -> None:
    folder = copy(cut, tmp_path)
    shutil.rmtree(folder / "checkpoints" / "step-00000008")
    (folder / "checkpoints" / "step-00000008").write_text("a file")
    (folder / "checkpoints" / "step-late").mkdir()
    outcome = run(cut[0], folder)
    assert_same_trial(cut, folder, outcome)


def test_trial_whose_checkpoints_are_all_damaged_starts_from_the_beginning_and_says_so(
    cut: Any, tmp_path: Path
) -> None:
    folder = copy(cut, tmp_path)
    for step in (4, 8):
        (folder / "checkpoints" / f"step-{step:08d}" / CHECKPOINT_MANIFEST).write_text("{")
    host = LocalHost(device=CPU)
    outcome = run(cut[0], folder, host)
    assert len(host.warnings) == 3
    assert "starts from the beginning" in host.warnings[-1]
    assert host.rows[0]["step"] == 2
    assert_same_trial(cut, folder, outcome)


class RefusedError(Exception):
    """What a store's own library raises, such as botocore's ClientError."""


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Exception], None]:
    """Let a store refuse every read of addresses that hold a text, for ever."""

    def start(text: str, error: Exception) -> None:
        for name in ("cat_file", "get_file", "info"):
            usual = getattr(LocalFileSystem, name)

            def refused(self: Any, path: str, *args: Any, usual: Any = usual, **more: Any) -> Any:
                if text in str(path):
                    raise error
                return usual(self, path, *args, **more)

            monkeypatch.setattr(LocalFileSystem, name, refused)

    return start


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError("[Errno 5] input/output"), RefusedError("AccessDenied")]
)
@pytest.mark.parametrize("name", [CHECKPOINT_MANIFEST, "engine.pt", "rank-00000.pt"])
def test_checkpoint_that_the_store_refuses_for_ever_is_passed_over_and_kept(
    name: str, error: Exception, cut: Any, tmp_path: Path, refuse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(cut, tmp_path)
    refuse(f"step-00000008/{name}", error)
    host = LocalHost(device=CPU, leave_after=3)
    with pytest.raises(StudyInterruptedError):
        run(cut[0], folder, host)
    assert "step-00000008 is not used: " in host.warnings[0]
    assert "step-00000007" in str(checkpoint.complete(str(folder / "checkpoints")))
    monkeypatch.undo()  # it answers again: no update of it is trained twice
    later = LocalHost(device=CPU)
    outcome = run(cut[0], folder, later)
    assert later.rows[0]["step"] == 10
    assert_same_trial(cut, folder, outcome)


def test_newest_checkpoint_stays_where_a_later_one_is_refused(cut: Any, tmp_path: Path, refuse: Any) -> None:
    folder = copy(cut, tmp_path)
    refuse("step-00000008/manifest.json", PermissionError(13, "Permission denied"))
    with pytest.raises(StudyInterruptedError):
        run(cut[0], folder, LocalHost(device=CPU, leave_after=2), keep_checkpoints=1)
    host = LocalHost(device=CPU, leave_after=1)
    with pytest.raises(StudyInterruptedError):
        run(cut[0], folder, host, keep_checkpoints=1)
    names = {Path(uri).name for uri in checkpoint.complete(str(folder / "checkpoints"))}
    assert names == {"step-00000008", "step-00000007"}


def rewritten(edit: Callable[[list[bytes]], list[bytes]]) -> Damage:
    return lambda path: path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))


def changed(**changes: Any) -> Damage:
    """The second line with other values; None removes a key."""

    def edit(lines: list[bytes]) -> list[bytes]:
        row = json.loads(lines[1]) | changes
        text = json.dumps({key: value for key, value in row.items() if value is not None})
        return [lines[0], text.encode() + b"\n", *lines[2:]]

    return rewritten(edit)


METRICS: dict[str, Damage] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "folder": a_folder,
    "binary line": rewritten(lambda lines: [lines[0], b"\xff\xfe\x00\n", *lines[2:]]),
    "empty line": rewritten(lambda lines: [lines[0], b"\n", *lines[1:]]),
    "list": rewritten(lambda lines: [lines[0], b"[1, 2]\n", *lines[2:]]),
    "null": rewritten(lambda lines: [lines[0], b"null\n", *lines[2:]]),
    "number": rewritten(lambda lines: [lines[0], b"7\n", *lines[2:]]),
    "deeply nested": rewritten(lambda lines: [lines[0], b"[" * 100_000 + b"\n", *lines[2:]]),
    "two rows in a line": rewritten(lambda lines: [lines[0], lines[1].strip() + lines[2], *lines[3:]]),
    "same line twice": rewritten(lambda lines: [lines[0], lines[1], lines[1], *lines[2:]]),
    "out of order": rewritten(lambda lines: [lines[1], lines[0], *lines[2:]]),
    "no step": changed(step=None),
    "step as text": changed(step="4"),
    "step is true": changed(step=True),
    "step 0": changed(step=0),
    "fraction of a step": changed(step=3.5),
    "no tokens": changed(tokens=None),
    "loss as text": changed(loss="2.5"),
    "loss is a list": changed(loss=[2.5]),
    "loss of 400 digits": changed(loss=10**400),
}
EMPTY: dict[str, Damage] = {
    "removed": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": rewritten(lambda lines: lines[:2]),
}


@pytest.mark.parametrize("damage", (METRICS | EMPTY).values(), ids=(METRICS | EMPTY).keys())
def test_damaged_metrics_are_written_again_as_the_checkpoint_holds_them(
    damage: Damage, cut: Any, tmp_path: Path
) -> None:
    folder = copy(cut, tmp_path)
    damage(folder / "metrics.jsonl")
    host = LocalHost(device=CPU)
    outcome = run(cut[0], folder, host)
    (warning,) = host.warnings
    assert str(folder / "metrics.jsonl") in warning
    assert "written again" in warning
    assert_same_trial(cut, folder, outcome)


def rewritten_part(place: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Another content of a checkpoint's file, with the manifest to it."""
    path = place / name
    torch.save(change(torch.load(path, weights_only=True)), path)
    manifest = json.loads((place / CHECKPOINT_MANIFEST).read_text())
    for record in manifest["files"]:
        if record["name"] == name:
            record |= {"size": path.stat().st_size, "sha256": checkpoint.sha256_file(path)}
    (place / CHECKPOINT_MANIFEST).write_text(json.dumps(manifest))


def without_rows(folder: Path) -> None:
    """As an earlier version wrote its checkpoints."""
    for step in (4, 8):
        place = folder / "checkpoints" / f"step-{step:08d}"
        rewritten_part(place, "rank-00000.pt", lambda extra: {k: v for k, v in extra.items() if k != "rows"})


@pytest.mark.parametrize("content", [[1, 2], {"states": None}, None])
def test_workers_part_of_another_kind_is_passed_over(content: Any, cut: Any, tmp_path: Path) -> None:
    folder = copy(cut, tmp_path)
    rewritten_part(folder / "checkpoints" / "step-00000008", "rank-00000.pt", lambda _: content)
    host = LocalHost(device=CPU)
    assert_same_trial(cut, folder, run(cut[0], folder, host))
    assert "rank-00000.pt does not hold" in host.warnings[0]


def test_whole_checkpoint_that_the_engine_cannot_load_is_named(cut: Any, tmp_path: Path) -> None:
    folder = copy(cut, tmp_path)
    place = folder / "checkpoints" / "step-00000008"
    rewritten_part(place, "engine.pt", lambda saved: saved | {"module": {}})
    with pytest.raises(StorageError, match="step-00000008: its files are whole, and the engine cannot load them"):
        run(cut[0], folder)
    shutil.rmtree(place)
    assert_same_trial(cut, folder, run(cut[0], folder))


@pytest.mark.parametrize("damage", (METRICS | EMPTY).values(), ids=(METRICS | EMPTY).keys())
def test_damaged_metrics_beside_a_checkpoint_of_an_earlier_version_keep_their_readable_rows(
    damage: Damage, cut: Any, tmp_path: Path
) -> None:
    folder = copy(cut, tmp_path)
    without_rows(folder)
    damage(folder / "metrics.jsonl")
    host = LocalHost(device=CPU)
    outcome = run(cut[0], folder, host)
    assert outcome.status == "finished"
    assert host.warnings
    assert all(str(folder / "metrics.jsonl") in warning for warning in host.warnings)
    kept, whole = losses(folder), losses(cut[1] / "whole")
    assert set(kept) <= set(whole)
    assert kept[-2:] == whole[-2:]
    assert outcome.held_out == cut[2].held_out


def test_whole_metrics_beside_a_checkpoint_of_an_earlier_version_need_no_word(cut: Any, tmp_path: Path) -> None:
    folder = copy(cut, tmp_path)
    without_rows(folder)
    host = LocalHost(device=CPU)
    assert_same_trial(cut, folder, run(cut[0], folder, host))
    assert host.warnings == []


def test_metrics_that_the_store_refuses_are_taken_from_the_checkpoint(cut: Any, tmp_path: Path, refuse: Any) -> None:
    folder = copy(cut, tmp_path)
    refuse("metrics.jsonl", PermissionError(13, "Permission denied"))
    host = LocalHost(device=CPU)
    outcome = run(cut[0], folder, host)
    assert outcome.held_out == cut[2].held_out
    assert len(host.warnings) == 1
    assert "Permission denied" in host.warnings[0]


def test_damaged_metrics_are_read_as_far_as_they_can_be_or_refused(cut: Any, tmp_path: Path) -> None:
    folder = copy(cut, tmp_path)
    METRICS["truncated"](folder / "metrics.jsonl")
    with pytest.raises(StorageError, match=r"metrics.jsonl: is damaged \(line 4: no JSON\)"):
        read_rows(str(folder))
    said: list[str] = []
    rows: list[Row] = read_rows(str(folder), said.append)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert "3 of its rows can be read" in said[0]


def test_branch_off_checkpoint_that_is_damaged_counts_as_absent(cut: Any, tmp_path: Path) -> None:
    folder = copy(cut, tmp_path) / "checkpoints"
    parameters = ParameterGroups(build(cut[0].model, device="meta", seed=None))
    assert checkpoint.holds(str(folder), 8, cut[0].fingerprint, parameters)
    (folder / "step-00000008" / CHECKPOINT_MANIFEST).write_text("{")
    assert not checkpoint.holds(str(folder), 8, cut[0].fingerprint, parameters)
    assert not checkpoint.holds(str(folder), 12, cut[0].fingerprint, parameters)
    assert storage.exists(str(folder / "step-00000008"))


def _resume_on_two_ranks(rank: int, trial: Trial, folder: str, refused: str) -> tuple[list[str], float, int]:
    """Train, then resume from what is left while rank 1 alone cannot read a file; its warnings, the difference that it
    makes to the held-out loss, and the update that the trial ended with."""
    import_deepspeed()
    whole = run(trial, Path(folder), LocalHost(device=CPU, rank=rank, world=2))
    usual = LocalFileSystem.get_file

    def get_file(self: Any, path: str, *args: Any, **more: Any) -> Any:
        if rank == 1 and refused in str(path):
            raise PermissionError(13, "Permission denied")
        return usual(self, path, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFileSystem, "get_file", get_file)
        resumed = LocalHost(device=CPU, rank=rank, world=2)
        outcome = run(trial, Path(folder), resumed)
    assert outcome.held_out is not None
    assert whole.held_out is not None
    return resumed.warnings, outcome.held_out.nats - whole.held_out.nats, outcome.step


def test_checkpoint_that_one_rank_cannot_read_is_passed_over_by_both(
    make_trial: Any, two_ranks: Any, tmp_path: Path
) -> None:
    trial = make_trial(engine="deepspeed", zero=2, segment=16)
    both = two_ranks.run(_resume_on_two_ranks, trial, str(tmp_path), "step-00000008/rank-00001.pt")
    for warnings, difference, step in both:
        assert len(warnings) == 1
        assert "step-00000008 is not used: " in warnings[0]
        assert "Permission denied" in warnings[0]
        assert (difference, step) == (0.0, 12)


def test_weights_are_written_over_a_folder_in_their_place(cut: Any, tmp_path: Path) -> None:
    folder = copy(cut, tmp_path)
    (folder / "model.safetensors").mkdir()
    (folder / "model.safetensors" / "something").write_text("else")
    assert_same_trial(cut, folder, run(cut[0], folder))
