"""Where a captioning model comes from: found on this machine, fetched or mended, then opened."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..settings.captioner_config import CaptionStyle
from ..settings.run_config import Precision
from .captioner import Captioner
from .checkpoint_folder import CheckpointFolder, DamagedCopyError, open_folder
from .model_files import download, download_place, locate, missing_model
from .style_choice import refuse_known_style, refuse_style


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerSource:
    """The model that is wanted, and what may be done to get it.

    Attributes:
        name: a label, owner/name of the hub, or a folder's name.
        folders: those that hold models, there or not; the first is for downloads.
        places: `folders` as people know them, for messages; no full paths.
        open: loads the model of a folder, and gives it back at the end.
        on_download: hears (bytes done, bytes in all); None = nothing is fetched.
        given: the model's folder where the user named it by its path.
    """

    name: str
    folders: tuple[Path, ...]
    places: tuple[str, ...]
    open: Callable[[CheckpointFolder, Precision], AbstractContextManager[Captioner]]
    on_download: Callable[[int, int], None] | None = None
    given: Path | None = None

    def find(self, style: CaptionStyle, question: str) -> CheckpointFolder:
        """The model's folder, after it was fetched or mended where that is wanted; no weight is read.

        Raises:
            InputError: it is nowhere, cannot be fetched or used, or cannot be asked for this.
        """
        folder = self.given or locate(self.name, self.folders)
        if folder is None:
            refuse_known_style(self.name, style, question)
            if self.on_download is None:
                raise missing_model(self.name, self.places)
            folder = download(self.name, self.folders[0], self.on_download)
        try:
            found = open_folder(folder, self.name)
        except DamagedCopyError as damage:
            found = self._mended(folder, damage)
        refuse_style(found, style, question)
        return found

    def mend(self, found: CheckpointFolder, damage: DamagedCopyError) -> CheckpointFolder:
        """Fetch the files of a damaged copy that are missing or of another size than on the hub.

        Raises:
            DamagedCopyError: `damage` itself, where nothing is to be fetched, or from nowhere.
            InputError: the copy lies where downloads do not go, or all its files have their sizes.
        """
        return self._mended(found.folder, damage)

    def _mended(self, folder: Path, damage: DamagedCopyError) -> CheckpointFolder:
        if self.on_download is None or self.given is not None:
            raise damage
        place = download_place(self.name, self.folders)
        if place is None:
            raise damage
        if folder != place:
            raise InputError(
                f"{damage.problem}; it lies where downloads do not go: delete {_called(folder)}, and it is "
                "downloaded anew"
            ) from damage
        before = _sizes(folder)
        download(self.name, self.folders[0], self.on_download)
        if _sizes(folder) == before:
            raise InputError(
                f"{damage.problem}; its files have the sizes that they have on the hub, so none was "
                f"replaced: delete {_called(folder)}, and it is downloaded anew"
            ) from damage
        return open_folder(folder, self.name)


def _called(folder: Path) -> str:
    """A folder as people find it, without the way to it."""
    if folder.parent.name == "snapshots":
        return f"the folder {folder.parents[1].name} in the hub's cache"
    return f"the folder {folder.parent.name}/{folder.name}"


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".part")
    return {path.name: path.stat().st_size for path in files}
