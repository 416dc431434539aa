"""The `datasets` library and the hub's client: found or missed in a sentence, kept quiet, their faults named.

No program of a repository ever runs: `datasets` 4 and newer cannot, older ones are refused.
"""

import importlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from ..errors import InputError
from ..settings.hub_config import HubConfig
from .hub_faults import (
    DISK_IS_FULL,
    GOES_ON,
    UNKNOWN,
    UNREACHABLE,
    causes,
    cleaned,
    gated,
    reason,
    transport_errors,
)

INSTALL = 'pip install "datasets>=4"'
OLDEST = 4


@dataclass(frozen=True)
class Libraries:
    """The two optional packages, and all that they raise when something is wrong with a dataset."""

    datasets: ModuleType
    hub: ModuleType
    errors: tuple[type[BaseException], ...]


def load_libraries() -> Libraries:
    """The optional packages.

    Raises:
        InputError: one is missing, or `datasets` is so old that it runs programs of repositories.
    """
    try:
        datasets = importlib.import_module("datasets")
        hub = importlib.import_module("huggingface_hub")
        arrow = importlib.import_module("pyarrow")
        transport = transport_errors(hub)
        of_datasets = importlib.import_module("datasets.exceptions").DatasetsError
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"datasets of the Hugging Face hub need the package `datasets` ({cleaned(error)}): install it "
            f"into this Python with `{INSTALL}`, or put the pictures into a folder for Load Dataset"
        ) from error
    if int(datasets.__version__.split(".")[0]) < OLDEST:
        raise InputError(
            f"the package `datasets` is {datasets.__version__}, which may run programs out of a repository: "
            f"update it with `{INSTALL}`"
        )
    faults = (*transport, ValueError, RuntimeError, LookupError, TypeError, ImportError, EOFError)
    faults += (of_datasets, arrow.ArrowException, hub.errors.EntryNotFoundError, pickle.PickleError)
    return Libraries(datasets, hub, faults)


@contextmanager
def quietly(libraries: Libraries) -> Iterator[None]:
    """No progress bars of `datasets`, and no message to its counter of downloads on another server."""
    bars = libraries.datasets.utils
    shown = not bars.are_progress_bars_disabled()
    if shown:
        bars.disable_progress_bars()
    try:
        with switched(libraries, "HF_UPDATE_DOWNLOAD_COUNTS", False):
            yield
    finally:
        if shown:
            bars.enable_progress_bars()


@contextmanager
def switched(libraries: Libraries, name: str, value: bool) -> Iterator[None]:
    """One switch of `datasets.config`, put back on leaving."""
    config = libraries.datasets.config
    before = getattr(config, name, value)
    setattr(config, name, value)
    try:
        yield
    finally:
        setattr(config, name, before)


@contextmanager
def sentences(libraries: Libraries, config: HubConfig, done: int = 0) -> Iterator[None]:
    """Turn what the libraries raise into one sentence."""
    try:
        yield
    except InputError:
        raise
    except libraries.errors as error:
        raise InputError(sentence_of(libraries, config, error, done)) from error


def sentence_of(libraries: Libraries, config: HubConfig, error: BaseException, done: int = 0) -> str:
    """What is wrong and what to do; `done` is the number of rows that were read before."""
    name, chain = config.repository, list(causes(error))
    said = " ".join(str(link) for link in chain)
    if "scripts are no longer supported" in said or "trust_remote_code" in said:
        return (
            f"{name} is a program that makes the dataset, and programs of the hub are never run here: choose "
            "a copy of it in parquet or plain files"
        )
    if any(type(link).__name__ in ("EmptyDatasetError", "DataFilesNotFoundError") for link in chain):
        return f"{name} holds no data files that `datasets` can read: choose another dataset"
    page = f"datasets/{name}"
    if "gated dataset" in said:
        why = gated(libraries.hub, page)
    elif "disk space" in said:
        why = DISK_IS_FULL
    else:
        why = UNKNOWN if "doesn't exist on" in said else reason(libraries.hub, error, page)
    revision = f" at revision '{config.revision}'" if config.revision else ""
    where = f" after {done} rows" if done else ""
    return f"the dataset {name}{revision} could not be read{where}: {why}"


def is_missing_file(libraries: Libraries, error: BaseException) -> bool:
    """Whether the hub itself said that it has no such file."""
    errors, chain = libraries.hub.errors, list(causes(error))
    # its file system says so without a cause, where it has asked the hub and got an empty list
    return (len(chain) == 1 and type(error) is FileNotFoundError) or any(
        isinstance(link, errors.EntryNotFoundError)
        and isinstance(link, errors.HfHubHTTPError)
        and not isinstance(link, errors.LocalEntryNotFoundError)
        for link in chain
    )


def unreachable(config: HubConfig) -> str:
    return (
        f"the dataset {config.repository} is not on this machine as it was asked for, and {UNREACHABLE} and "
        f"{GOES_ON}; once it is fetched, no network is needed"
    )
