"""Sentences that leave this machine, into a browser or a report, name files and tell no folders."""

import re
from collections.abc import Iterable
from pathlib import Path

_START = r"(?:file:[\\/]+|~[\\/]+|[A-Za-z]:[\\/]+|%s)"
# up to the closing quote on the same line, whatever is in between
_QUOTED = re.compile(
    r"(?P<quote>[\"'`])" + _START % r"[\\/]+" + r"(?P<rest>(?:(?!(?P=quote))[^\n])+)(?P=quote)"
)
_WORD = r"[^\\/\s'\"`:;,]+"
# a folder has spaces in its name where a separator follows the words, and none has an ending as files do
_PART = r"(?:[A-Za-z]:(?=[\\/])|[^\\/\s'\"`:;,.]+(?: [^\\/\s'\"`:;,.]+){1,4}(?=[\\/])|" + _WORD + ")"
# neither in the middle of a relative path nor in an address of the web
_BARE = re.compile(
    r"(?<![\w.~/\\<-])"
    + _START % r"(?<!:)[\\/]+(?=[^\W\d]|[^\\/\s]+[\\/]|\?)|(?<=:)(?:/(?!/)|\\+)"
    + rf"(?P<rest>{_PART}(?:[\\/]+{_PART})*)"
)
_SEPARATORS = re.compile(r"[\\/]+")


def without_folders(text: str, folders: Iterable[Path] = ()) -> str:
    """`text` with the names of files in place of their absolute paths.

    Args:
        text: sentences; paths in it may be written as Python or a browser writes them.
        folders: that are known here. What lies in one keeps its path from there on, after the name of the
            folder; and as they are known they are found wherever they stand.
    """
    known = {folder.absolute(): folder.name for folder in folders} | {Path.home(): "~"}
    for folder in sorted(known, key=lambda folder: len(str(folder)), reverse=True):
        if folder.name:  # a disk has none
            text = _pattern_of(folder).sub(lambda _, name=known[folder]: name, text)
    text = _QUOTED.sub(lambda match: f"{match['quote']}{_name(match['rest'])}{match['quote']}", text)
    return _BARE.sub(lambda match: _name(match["rest"]), text)


def _pattern_of(folder: Path) -> re.Pattern[str]:
    """The folder with separators of either kind, alone or doubled; not the beginning of another's name."""
    parts = [re.escape(part) for part in _SEPARATORS.split(str(folder)) if part]
    start = "" if folder.drive else r"[\\/]+"
    return re.compile(r"(?<![\w.~/\\-])(?:file:[\\/]+)?" + start + r"[\\/]+".join(parts) + r"(?![\w-])")


def _name(path: str) -> str:
    return [part for part in _SEPARATORS.split(path) if part][-1] if path.strip("\\/") else path
