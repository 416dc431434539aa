"""What a user may read of where his files are: a folder's name in the graph, never its place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..trainer.errors import InputError


@contextmanager
def shown_as(place: Path, name: str) -> Iterator[None]:
    """Input errors from within speak of `name` where they would speak of `place`.

    A workflow and its errors are shared; where the user keeps his files is not.

    Raises:
        InputError: as raised within, in these words.
    """
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(place), name)) from None
