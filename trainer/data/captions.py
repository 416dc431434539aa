"""Captions: from the bytes of a text file to the one line that is encoded, and the trigger word.

A caption is literal text: `(word:1.3)`, `embedding:x`, `BREAK` and backslashes are kept as they are.
"""

import codecs
import re
import unicodedata
from pathlib import Path

MAX_FILE_BYTES = 2**20
MAX_CAPTION_CHARS = 10_000
"""Longer captions are cut, with a warning: some 2,500 tokens, far beyond what a prompt holds."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path, max_bytes: int = MAX_FILE_BYTES) -> tuple[str, str]:
    """Read a text file of unknown encoding, at most `max_bytes` of it.

    UTF-8 or UTF-16 by its byte order mark, else UTF-8, else Windows-1252.

    Returns:
        The text and a warning, which is empty when all is well.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    cut = len(data) > max_bytes
    text, warning = decode_text(data[:max_bytes], whole=not cut)
    return text, f"is longer than {max_bytes // 1024} KiB and was cut there" if cut else warning


def decode_text(data: bytes, whole: bool = True) -> tuple[str, str]:
    """Decode bytes of unknown encoding; the second value is a warning or empty.

    `whole` is False for the start of a longer text, whose last character may be cut in two.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
            return decoder.decode(data[len(mark) :], final=whole), ""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=whole), ""
    except UnicodeDecodeError:
        warning = "is not UTF-8 and was read as Windows-1252: check its accents and save it as UTF-8"
    try:
        return data.decode("cp1252"), warning
    except UnicodeDecodeError:  # five bytes have no meaning in Windows-1252; Latin-1 loses none
        return data.decode("latin-1"), warning


def clean_caption(text: str) -> tuple[str, str]:
    """One line: lines and runs of white space become one space, control characters go.

    Returns:
        The caption and a warning, which is empty when nothing was cut off.
    """
    visible = "".join(
        character
        for character in text.encode("utf-8", "ignore").decode("utf-8")  # lone surrogates go
        if character.isspace() or (character != "\ufeff" and unicodedata.category(character) != "Cc")
    )
    caption = " ".join(visible.split())
    if len(caption) <= MAX_CAPTION_CHARS:
        return caption, ""
    shortened = caption[:MAX_CAPTION_CHARS].rsplit(" ", 1)[0]
    return shortened, f"caption has {len(caption):,} characters and was cut to {len(shortened):,}"


def read_caption(path: Path) -> tuple[str, str]:
    """The caption in a text file, all its lines joined by spaces, and a warning or an empty string.

    Raises:
        OSError: the file cannot be read.
    """
    text, file_warning = read_text(path)
    caption, cut_warning = clean_caption(text)
    return caption, file_warning or cut_warning


def holds_trigger(caption: str, trigger: str) -> bool:
    """Whether `caption` has `trigger` in it as whole words; case does not matter, CLIP ignores it."""
    pattern = r"\s+".join(re.escape(word) for word in trigger.split())
    return bool(pattern) and re.search(rf"(?<!\w){pattern}(?!\w)", caption, re.IGNORECASE) is not None


def with_trigger(caption: str, trigger: str) -> str:
    """`trigger, caption`, unless the caption holds the trigger already; the trigger alone for none."""
    if not trigger or holds_trigger(caption, trigger):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def literal_prompt(caption: str) -> str:
    """The prompt that ComfyUI tokenizes into exactly the words of `caption`.

    A space before the colon keeps `embedding:` from being looked up; CLIP's tokens are the same.
    """
    plain = caption.replace("\\(", "(").replace("\\)", ")")
    escaped = plain.replace("(", "\\(").replace(")", "\\)")
    return escaped.replace("embedding:", "embedding :")
