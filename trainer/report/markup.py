"""Elements of HTML and SVG whose texts and attribute values are escaped, wherever these come from."""

import html
import re

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_VOID = frozenset(("img", "meta"))


class Markup(str):
    """Text that is markup already, and is not escaped a second time."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Any text as markup that shows it; what no page may hold, such as control characters, becomes U+FFFD."""
    return text if isinstance(text, Markup) else Markup(html.escape(_NOT_IN_XML.sub("\ufffd", text)))


def joined(*parts: str) -> Markup:
    """Texts and markup, one behind the other."""
    return Markup("".join(map(escaped, parts)))


def element(tag: str, *content: str, **attributes: object) -> Markup:
    """One element that is sound both as HTML and as XML.

    Args:
        tag: its name.
        content: texts, which are escaped, and markup, which is not.
        attributes: by name, with `_` for `-` ("class_" for "class"); those that are None are left out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{joined(*content)}</{tag}>")
