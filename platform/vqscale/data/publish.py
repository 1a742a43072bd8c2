"""Publishing a corpus: one preparation at a time, in a working folder, moved to its target when it is complete."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from vqscale import storage
from vqscale.data.home import home_folder, locked
from vqscale.data.labelled.format import LabelledManifest
from vqscale.data.manifests import read_manifest
from vqscale.data.shards import MANIFEST, SPLITS, TOKENIZER, Manifest
from vqscale.errors import CorpusError, StorageError
from vqscale.study.fingerprint import fingerprint

PreparationStage = Literal["complete", "examine", "measure", "train tokenizer", "write"]
ProgressCallback = Callable[[PreparationStage, int, int | None], None]
"""Called with a stage, how much of it is done (bytes of a source; examples of a generator) and the total if known."""

AnyKind = TypeVar("AnyKind", Manifest, LabelledManifest)


def no_progress(stage: PreparationStage, done: int, total: int | None) -> None:
    """A ProgressCallback that does nothing."""


def publish(
    out: str,
    request: str,
    kind: type[AnyKind],
    overwrite: bool,
    report: ProgressCallback,
    make: Callable[[Path], AnyKind],
    is_worth_keeping: Callable[[Path], bool] = lambda folder: False,
) -> AnyKind:
    """The corpus at `out` for `request` (the digest of what was asked for): the complete one found there, or the one
    that `make(folder)` leaves in `folder/corpus`.

    `folder` is locked among all processes. After an interruption it is kept if `is_worth_keeping(folder)`, so that
    `make` can resume; otherwise, and after an error, nothing is left. CorpusError if `out` holds anything else,
    StorageError if it cannot be written.
    """
    if not overwrite and (manifest := _existing(out, request, kind)):
        report("complete", 0, None)
        return manifest
    _require_usable(out)
    folder = _work_folder(out)
    with _parents(folder), locked(folder):
        manifest = (
            None if overwrite else _existing(out, request, kind)
        )  # another process may have made it during the wait
        manifest = manifest or _made(folder, out, make, is_worth_keeping)
        shutil.rmtree(folder)
        return manifest


@contextlib.contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """Remove the folders above `folder` that were made within the block and are empty after it failed."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in missing:  # the deepest first
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _existing(out: str, request: str, kind: type[AnyKind]) -> AnyKind | None:
    """The corpus at `out` if it is the one requested, None if there is none; CorpusError for another one."""
    if not storage.exists(storage.join(out, MANIFEST)):
        return None
    manifest = read_manifest(out)
    if isinstance(manifest, kind) and manifest.request == request:
        return manifest
    raise CorpusError(
        f"out: {out} holds a corpus of another source or with other options. "
        "Choose another folder or replace it with --overwrite."
    )


def _require_usable(out: str) -> None:
    """Raise CorpusError unless `out` can be written and holds nothing but a corpus or the remains of one."""
    others = [name for name in storage.listdir(out) if name not in {MANIFEST, TOKENIZER} and not _is_shard(name)]
    if others:
        raise CorpusError(f"out: {out} holds files that are no corpus, such as {others[0]}. Choose an empty folder.")
    if not storage.is_local(out):
        storage.require_writable(out)
    elif Path(out).exists() and not Path(out).is_dir():
        raise CorpusError(f"out: {out} is a file. Choose a folder that does not exist yet.")


def _is_shard(name: str) -> bool:
    return name.endswith(".arrow") and name.startswith(SPLITS)


def _work_folder(out: str) -> Path:
    """Beside a local target, so that one rename moves the corpus there; for a remote one in the user's home folder."""
    if storage.is_local(out):
        return Path(out).parent / f".prepare-{Path(out).name}"
    return home_folder() / "prepare" / fingerprint(out)[:16]


def _made(folder: Path, out: str, make: Callable[[Path], AnyKind], is_worth_keeping: Callable[[Path], bool]) -> AnyKind:
    try:
        manifest = make(folder)
        _move(folder / "corpus", out)
    except OSError as error:
        kept = _keep_or_remove(folder, is_worth_keeping)
        reason = error.strerror or str(error)
        raise StorageError(
            f"out: {out} cannot be written ({reason}). Fix this and repeat the command{' to resume' if kept else ''}."
        ) from error
    except KeyboardInterrupt:
        _keep_or_remove(folder, is_worth_keeping)
        raise
    except BaseException:
        shutil.rmtree(folder)  # the same call would fail again: nothing is worth keeping
        raise
    return manifest


def _keep_or_remove(folder: Path, is_worth_keeping: Callable[[Path], bool]) -> bool:
    kept = is_worth_keeping(folder)
    if not kept:
        shutil.rmtree(folder)
    return kept


def _move(corpus: Path, out: str) -> None:
    """Move the corpus to `out`: one rename on a local disk; elsewhere the manifest is uploaded last."""
    if storage.is_local(out):
        if Path(out).exists():
            shutil.rmtree(out)
        corpus.rename(out)
        return
    try:
        storage.remove(storage.join(out, MANIFEST))
        for path in sorted(corpus.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
            storage.upload(str(path), storage.join(out, path.name))
    except StorageError as error:  # the store may answer later: what was prepared is kept, as for a full disk
        raise OSError(str(error)) from error
