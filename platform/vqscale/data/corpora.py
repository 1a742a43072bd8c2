"""Corpora by name: the folder of prepared ones, and `stdlib`, which is prepared when it is first used.

Loaders and the preparation are imported inside functions: a corpus that exists is found without them.
"""

from pathlib import Path

from vqscale import storage
from vqscale.data.home import home_folder
from vqscale.data.publish import ProgressCallback
from vqscale.data.shards import FORMAT, MANIFEST
from vqscale.errors import CorpusError


def corpora_folder(home: str | None = None) -> Path:
    """The folder of named corpora."""
    return home_folder(home) / "corpora"


def corpus_folder(name: str, home: str | None = None) -> str:
    """The folder of the corpus `name`, prepared or not; `stdlib` has one for each Python version and format."""
    if name != "stdlib":
        return str(corpora_folder(home) / name)
    from vqscale.data.loaders import python_version

    return str(corpora_folder(home) / f"stdlib-python{python_version()}-v{FORMAT}")


def resolve_corpus(name_or_uri: str, *, home: str | None = None, progress: ProgressCallback | None = None) -> str:
    """The URI of a corpus given by name or by URI. `stdlib` is prepared first if it does not exist yet.

    A name is looked up in the user's home (`$VQSCALE_HOME`, else `~/.cache/vqscale`), then as a folder here. Any number
    of processes may call this at the same time: one prepares, the others wait. CorpusError for a name found nowhere.
    """
    if "/" in name_or_uri:
        return storage.absolute(name_or_uri)
    folder = corpus_folder(name_or_uri, home)
    if storage.exists(storage.join(folder, MANIFEST)):
        return folder
    if name_or_uri == "stdlib":
        from vqscale.data.loaders import StandardLibrary
        from vqscale.data.prepare import prepare

        prepare(StandardLibrary(), folder, progress=progress)
        return folder
    if storage.exists(storage.join(name_or_uri, MANIFEST)):
        return storage.absolute(name_or_uri)
    from vqscale.data.loaders import LOADERS
    from vqscale.data.tasks.catalogue import LABELLED_LOADERS

    how = f"FILES --as {name_or_uri}" if name_or_uri in LOADERS | LABELLED_LOADERS else f"SOURCE --out {folder}"
    raise CorpusError(
        f"corpus: {name_or_uri!r} is neither prepared in {corpora_folder(home)} nor a corpus in this folder. "
        f"Make it: vqscale data prepare {how}"
    )


def list_corpora(home: str | None = None) -> list[str]:
    """The URIs of the prepared corpora in the user's home folder, sorted."""
    folder = str(corpora_folder(home))
    places = (storage.join(folder, name) for name in storage.listdir(folder) if not name.startswith("."))
    return [place for place in places if storage.exists(storage.join(place, MANIFEST))]
