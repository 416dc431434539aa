"""The end of a caption that had to stop because max_tokens was reached."""

import re

from ..settings.captioner_config import CaptionStyle

_ABBREVIATIONS = r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\bvs)(?<!\betc)"
_SENTENCE_END = re.compile(
    # a lone letter or digit before the mark is an initial, "e.g." or the number of a list
    rf"(?<![\s.(]\w)(?<!^\w){_ABBREVIATIONS}[.!?]+[\"'”’)\]]*(?=\s|$)|[。！？]"
)


def without_cut_off_end(text: str, style: CaptionStyle) -> str:
    """A text that stopped for its length, up to its last full sentence; of tags, up to the last comma.

    Left as it is where there is no such place, and for the style "custom", whose form is the question's.
    """
    if style == "custom":
        return text
    if style == "tags":
        kept = text[: max(text.rfind(","), 0)].rstrip(" ,")
    else:
        ends = [match.end() for match in _SENTENCE_END.finditer(text)]
        kept = text[: ends[-1]] if ends else ""
    return kept if re.search(r"\w", kept) else text
