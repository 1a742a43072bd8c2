"""Making a corpus appear: one preparation at a time, in a folder of its own, moved to its place when it is whole."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from vqscale import storage
from vqscale.data.home import home_folder, locked
from vqscale.data.labelled.format import LabelledManifest
from vqscale.data.manifests import read_manifest
from vqscale.data.shards import MANIFEST, SPLITS, TOKENIZER, Manifest
from vqscale.errors import CorpusError, StorageError, UserError
from vqscale.study.fingerprint import fingerprint

Stage = Literal["complete", "measure", "train tokenizer", "write"]
ProgressCallback = Callable[[Stage, int, int | None], None]
"""Called with a stage, what was done in it (bytes of the source; examples of a generator), and the total if known."""

AnyKind = TypeVar("AnyKind", Manifest, LabelledManifest)


def silent(stage: Stage, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


def publish(
    out: str,
    request: str,
    kind: type[AnyKind],
    overwrite: bool,
    report: ProgressCallback,
    make: Callable[[Path], AnyKind],
) -> AnyKind:
    """The corpus asked for by `request` at `out`: the complete one found there, or what `make(folder)` leaves in
    `folder/corpus`.

    `folder` is locked among all processes and kept after an interruption, so that `make` may go on where it stopped.
    CorpusError if `out` holds anything else, StorageError if it cannot be written.
    """
    if not overwrite and (manifest := _existing(out, request, kind)):
        report("complete", 0, None)
        return manifest
    _require_room(out)
    folder = _work_folder(out)
    with locked(folder):
        manifest = None if overwrite else _existing(out, request, kind)  # another process made it while we waited
        manifest = manifest or _made(folder, out, make)
        shutil.rmtree(folder)
        return manifest


def _existing(out: str, request: str, kind: type[AnyKind]) -> AnyKind | None:
    """The corpus at `out` if it is the one asked for, None if there is none; CorpusError for another one."""
    if not storage.exists(storage.join(out, MANIFEST)):
        return None
    manifest = read_manifest(out)
    if isinstance(manifest, kind) and manifest.request == request:
        return manifest
    raise CorpusError(
        f"out: {out} holds a corpus of another source or with other options. "
        "Choose another place or replace it with --overwrite."
    )


def _require_room(out: str) -> None:
    """Raise unless `out` can be written and holds nothing but a corpus or the remains of one."""
    strangers = [name for name in storage.listdir(out) if name not in {MANIFEST, TOKENIZER} and not _is_shard(name)]
    if strangers:
        raise CorpusError(f"out: {out} holds files that are no corpus, such as {strangers[0]}. Choose an empty place.")
    if not storage.is_local(out):
        storage.require_writable(out)
    elif Path(out).exists() and not Path(out).is_dir():
        raise CorpusError(f"out: {out} is a file. Choose a folder that does not exist yet.")


def _is_shard(name: str) -> bool:
    return name.endswith(".arrow") and name.startswith(SPLITS)


def _work_folder(out: str) -> Path:
    """Beside a local target, so that the corpus moves there in one rename; in the user's home for a remote one."""
    if storage.is_local(out):
        return Path(out).parent / f".prepare-{Path(out).name}"
    return home_folder() / "prepare" / fingerprint(out)[:16]


def _made(folder: Path, out: str, make: Callable[[Path], AnyKind]) -> AnyKind:
    try:
        manifest = make(folder)
        _move(folder / "corpus", out)
    except UserError:
        shutil.rmtree(folder)  # the same call would fail again: leave nothing behind
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"out: {out} cannot be written ({reason}). Mend it and repeat the command to go on."
        ) from error
    return manifest


def _move(corpus: Path, out: str) -> None:
    """Make the corpus appear at `out`: one rename on a local disk; elsewhere the manifest goes last."""
    if storage.is_local(out):
        if Path(out).exists():
            shutil.rmtree(out)
        corpus.rename(out)
        return
    storage.remove(storage.join(out, MANIFEST))
    for path in sorted(corpus.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
        storage.upload(str(path), storage.join(out, path.name))
