"""Files at any URI: whole or not at all."""

from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from vqscale import storage
from vqscale.errors import StorageError


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    fsspec.filesystem("memory").store.clear()
    return "memory://root"


def test_storage_writes_reads_lists_and_removes(root: str, tmp_path: Path) -> None:
    uri = storage.join(root, "a", "b.json")
    storage.write_json(uri, {"x": 1})
    assert storage.read_json(uri) == {"x": 1}
    assert storage.listdir(storage.join(root, "a")) == ["b.json"]
    local = tmp_path / "copy.json"
    storage.download(uri, str(local))
    storage.upload(str(local), storage.join(root, "a", "c.json"))
    assert storage.listdir(storage.join(root, "a")) == ["b.json", "c.json"]
    storage.remove(storage.join(root, "a"))
    assert not storage.exists(uri)
    assert storage.listdir(storage.join(root, "a")) == []


def test_storage_removing_what_is_absent_changes_nothing(root: str) -> None:
    storage.remove(storage.join(root, "nothing"))
    assert storage.listdir(root) == []


def test_storage_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with storage.atomic_path(str(path)) as draft:
            Path(draft).write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_storage_refuses_numbers_that_are_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(str(tmp_path / "x"), {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["../up", "/etc", "a/../../b"])
def test_join_refuses_parts_that_leave_the_folder(part: str) -> None:
    with pytest.raises(AssertionError, match="leaves its folder"):
        storage.join("/data", part)


def test_unknown_scheme_is_named() -> None:
    with pytest.raises(StorageError, match="nosuch://x"):
        storage.filesystem("nosuch://x")


def test_writable_place_is_left_as_it_was(tmp_path: Path) -> None:
    storage.require_writable(str(tmp_path / "new" / "folder"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="cannot be written"):
        storage.require_writable("/dev/null/folder")


class ListingCache(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A store that keeps its listings until they are invalidated, as s3fs does; `files` is what the folder holds."""

    protocol = "listingcache"
    files: ClassVar[set[str]] = set()

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        held = {"": ("directory", {"study"}), "study": ("file", self.files)}
        if path not in held:
            raise FileNotFoundError(path)
        if path not in self.dircache:
            kind, names = held[path]
            self.dircache[path] = [{"name": name, "size": 0, "type": kind} for name in sorted(names)]
        entries = self.dircache[path]
        return entries if detail else [entry["name"] for entry in entries]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


def test_storage_sees_what_another_process_has_written_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("listingcache", ListingCache, clobber=True)
    monkeypatch.setattr(ListingCache, "files", {"study/a"})
    assert storage.exists("listingcache://study/a")
    assert not storage.exists("listingcache://study/b")
    assert storage.listdir("listingcache://study") == ["a"]
    monkeypatch.setattr(ListingCache, "files", {"study/b"})  # by another process
    assert not storage.exists("listingcache://study/a")
    assert storage.exists("listingcache://study/b")
    assert storage.listdir("listingcache://study") == ["b"]
