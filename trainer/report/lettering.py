"""Text on the picture: a font that has its letters, and lines that fit."""

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

LINE = 1.4
"""Height of a line in font sizes."""
_LARGE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "msyh.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "wqy-microhei.ttc",
    "DejaVuSans.ttf",
    "arial.ttf",
    "Arial Unicode.ttf",
)
"""Files that systems bring along, for letters that Pillow's own font lacks."""
_MISSING = "\U000f1234"  # for private use: no font has it


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font where it has all letters of the text, else one of the system's, else Pillow's."""
    own = _own_font(size)
    unusual = "".join(sorted({letter for letter in text if letter > "~"}))
    if not unusual or _has_all(None, unusual):
        return own
    for name in _LARGE_FONTS:
        if _system_font(name, size) is not None and _has_all(name, unusual):
            return _system_font(name, size) or own
    return own


def wrapped(text: str, size: int, width: int, most: int = 1000) -> list[str]:
    """Lines no wider than `width` pixels; the last of `most` ends in dots where something is left out."""
    font = font_for(text, size)
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        lines += [line] if line else []
        *full, line = _broken(word, font, width)
        lines += full
        if len(lines) > most:
            break
    lines += [line] if line else []
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(f"{last}...") > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last.rstrip()}..."]


def write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: str) -> float:
    """Write one line whose upper left corner is at `place`; returns its width."""
    font = font_for(text, size)
    draw.text(place, text, fill=fill, font=font)
    return font.getlength(text)


def _broken(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A word cut where it is wider than a line, as a sentence without spaces is."""
    parts, part = [], ""
    for letter in word:
        if part and font.getlength(part + letter) > width:
            parts.append(part)
            part = ""
        part += letter
    return [*parts, part]


@lru_cache(maxsize=32)
def _own_font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@lru_cache(maxsize=64)
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=256)
def _has_all(name: str | None, letters: str) -> bool:
    """Whether none of the letters is drawn as the box that stands for a missing one."""
    font = _own_font(20) if name is None else _system_font(name, 20)
    if font is None:
        return False
    box = _pixels(font, _MISSING)
    return all(letter.isspace() or _pixels(font, letter) != box for letter in letters)


def _pixels(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    image = Image.new("L", (48, 48))
    ImageDraw.Draw(image).text((8, 8), letter, fill=255, font=font)
    return image.tobytes()
