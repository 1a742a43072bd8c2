"""The loaders of labelled raw data files, by name."""

from typing import Final

from vqscale.data.options import checked
from vqscale.data.tasks.images import Cifar10, Cifar10Colour, Mnist, PathfinderRelease
from vqscale.data.tasks.logs import LabelledLogs
from vqscale.data.tasks.raw_files import LoaderOptions, RawFiles
from vqscale.data.tasks.speech import SpeechCommands10, SpeechCommands35
from vqscale.data.tasks.tables import ListOpsRelease, Retrieval
from vqscale.data.tasks.text import Imdb, LabelledText, SpamAssassin

_KINDS: Final[tuple[type[RawFiles], ...]] = (
    *(LabelledText, LabelledLogs, ListOpsRelease, Imdb, Retrieval, SpamAssassin, Mnist, Cifar10, Cifar10Colour),
    *(PathfinderRelease, SpeechCommands10, SpeechCommands35),
)
LABELLED_LOADERS: Final[dict[str, type[RawFiles]]] = {kind.name: kind for kind in _KINDS}


def raw_files_loader(name: str, uri: str, *, partial: bool = False, **options: object) -> RawFiles:
    """The loader `name` of the files at `uri`; CorpusError for an option that it does not use or an invalid value."""
    return LABELLED_LOADERS[name](uri, checked(LoaderOptions, partial=partial or None, **options))
