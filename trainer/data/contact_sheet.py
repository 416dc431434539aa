"""Pictures with their captions on one sheet: a dataset as it will be cropped, or before beside after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from .captions import holds_trigger
from .training_set import TrainingSet

_PAPER = "#f4f4f1"
_CARD = "#ffffff"
_MAT = "#e6e6e0"
_INK = "#222222"
_FAINT = "#6b6b6b"
_HIGHLIGHT = "#b3380f"
_ALARM = "#c4161c"
_PALENESS = 0.75
_GAP = 14
_MAX_CAPTION_LINES = 5
_MAX_FLAG_LINES = 2


@dataclass(frozen=True, slots=True)
class SheetStyle:
    """What a sheet shows besides pictures and captions.

    `tile` is the width of what each picture is fitted into, pixels, `height` its height, 0 = a square;
    `labels` are short grey lines above the captions, `row_notes` grey texts below the row titles; `corner`
    stands over the row titles; `highlight` is coloured where a caption holds it. `title` stands over it all;
    `flags` are words in red, "" = none, on a picture that gets a red frame for them.
    """

    tile: int = 256
    height: int = 0
    labels: Sequence[str] = ()
    row_titles: Sequence[str] = ()
    row_notes: Sequence[str] = ()
    column_titles: Sequence[str] = ()
    corner: str = ""
    highlight: str = ""
    title: str = ""
    flags: Sequence[str] = ()

    @property
    def tile_height(self) -> int:
        return self.height or self.tile


def contact_sheet(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    columns: int,
    style: SheetStyle | None = None,
) -> Image.Image:
    """Lay pictures out in rows of `columns`, each over its caption.

    Args:
        images: row by row; each is scaled to fit into its tile.
        captions: one for each picture, or none at all; long ones end in an ellipsis.
        columns: pictures in a row.
        style: tile size, titles and labels.

    Returns:
        The sheet, mode RGB, no wider than `columns` tiles and the row titles need.
    """
    style = style or SheetStyle()
    columns = max(1, min(columns, len(images)))
    texts = [_wrap(text, style.tile, _font(_caption_size(style))) for text in captions]
    grid = _Grid(style, columns, len(images), texts)
    sheet = Image.new("RGB", grid.size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_titles(draw, grid, style)
    for index, image in enumerate(images):
        left, top = grid.place(index)
        draw.rectangle((left, top, left + style.tile - 1, top + grid.card_height(index) - 1), fill=_CARD)
        draw.rectangle((left, top, left + style.tile - 1, top + style.tile_height - 1), fill=_MAT)
        fitted = _fit(image, style.tile, style.tile_height)
        across, down = (style.tile - fitted.width) // 2, (style.tile_height - fitted.height) // 2
        sheet.paste(fitted, (left + across, top + down))
        text_top = top + style.tile_height + _draw_flag(draw, grid, index) + _GAP // 2
        _draw_text(draw, grid, index, (left + _GAP // 2, text_top), texts)
    return sheet


def dataset_sheet(
    dataset: TrainingSet, max_pictures: int = 48, flags: Mapping[int, Sequence[str]] | None = None
) -> Image.Image:
    """The pictures of a dataset as they are cropped, with size, file name and caption.

    What a mask leaves out is shown pale and without colour.

    Args:
        dataset: what to show.
        max_pictures: of more, those with flags come first, and the others are an even choice.
        flags: picture -> what is wrong with it, few words each; given, a title counts them.

    Raises:
        InputError: a file is gone or has changed.
    """
    shown = _chosen(len(dataset.pictures), max_pictures, sorted(flags or ()))
    labels = []
    for index in shown:
        width, height = dataset.variants[index][0].bucket
        name = " ".join(dataset.pictures[index].name.split())
        labels.append(f"{width}x{height}  {name}")
    columns = min(8, max(1, round((len(shown) * 1.4) ** 0.5)))
    style = SheetStyle(
        labels=labels,
        highlight=dataset.trigger_words,
        title="" if flags is None else _count(len(shown), len(dataset.pictures), len(flags)),
        flags=[", ".join((flags or {}).get(index, ())) for index in shown],
    )
    return contact_sheet(
        [_fit(as_cropped(dataset, index), style.tile, style.tile_height) for index in shown],
        [dataset.pictures[index].shown_captions[0] or "(no caption)" for index in shown],
        columns,
        style,
    )


def _count(shown: int, total: int, flagged: int) -> str:
    pictures = f"{shown} of {total} pictures" if shown < total else f"{total} picture{'s' * (total > 1)}"
    return f"{pictures}, {flagged or 'none'} flagged"


def _chosen(total: int, most: int, flagged: Sequence[int]) -> list[int]:
    """At most `most` indices; where not all fit, the flagged ones first, then an even choice of others."""
    if total <= most:
        return list(range(total))
    others = sorted(set(range(total)) - set(flagged))
    first = [flagged[place] for place in _evenly(len(flagged), most)]
    return first + [others[place] for place in _evenly(len(others), most - len(first))]


def as_cropped(dataset: TrainingSet, index: int) -> Image.Image:
    """A picture as it is cropped, mode RGB; what a mask leaves out is pale and without colour.

    Raises:
        InputError: the file is gone or has changed.
    """
    variant = dataset.variants[index][0]
    image, mask = dataset.crop_picture(variant), dataset.crop_mask(variant)
    if mask is None:
        return image
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, _MAT), _PALENESS)
    return Image.composite(image, pale, mask)


class _Grid:
    """Where each picture and its text stand, in pixels."""

    def __init__(self, style: SheetStyle, columns: int, num_images: int, texts: list[list[str]]) -> None:
        self.style = style
        self.columns = columns
        self.line_height = round(_caption_size(style) * 1.35)
        self.label_height = self.line_height if style.labels else 0
        self.title_height = round(_title_size(style) * 1.35) + _GAP if style.title else 0
        font = _font(_caption_size(style))
        self.flags = [_wrap(flag, style.tile, font, _MAX_FLAG_LINES) for flag in style.flags]
        counts = [_length(texts, index) + _length(self.flags, index) for index in range(num_images)]
        rows = [counts[start : start + columns] for start in range(0, num_images, columns)]
        self._text_heights = [max(row) * self.line_height for row in rows]
        self.titles_width = style.tile * 3 // 4 if style.row_titles or style.row_notes else 0
        heading = [_wrap(title, style.tile, _font(_title_size(style))) for title in style.column_titles]
        self.titles_height = max(map(len, heading), default=0) * round(_title_size(style) * 1.35)
        self.row_tops: list[int] = []
        top = _GAP + self.title_height + (self.titles_height + _GAP if self.titles_height else 0)
        for row in range(len(rows)):
            self.row_tops.append(top)
            top += self.card_height(row * columns) + _GAP
        self.size = (_GAP + self.titles_width + columns * (style.tile + _GAP), top)

    def card_height(self, index: int) -> int:
        text = self._text_heights[index // self.columns] + self.label_height
        return self.style.tile_height + (text + _GAP if text else 0)

    def place(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, self.columns)
        return _GAP + self.titles_width + column * (self.style.tile + _GAP), self.row_tops[row]


def _draw_titles(draw: ImageDraw.ImageDraw, grid: _Grid, style: SheetStyle) -> None:
    font = _font(_title_size(style))
    spacing = round(_title_size(style) * 1.35)
    if style.title:
        draw.text((_GAP, _GAP), _wrap(style.title, grid.size[0] - _GAP, font, 1)[0], fill=_INK, font=font)
    heading = _GAP + grid.title_height
    for column, title in enumerate(style.column_titles[: grid.columns]):
        left = grid.place(column)[0]
        for number, line in enumerate(_wrap(title, style.tile, font)):
            draw.text((left, heading + number * spacing), line, fill=_INK, font=font)
    if style.corner and grid.titles_width:
        line = _wrap(style.corner, grid.titles_width, font, 1)[0]
        draw.text((_GAP, heading), line, fill=_FAINT, font=font)
    for row, top in enumerate(grid.row_tops):
        bottom = top + style.tile_height
        for texts, size, fill in (
            (style.row_titles, _title_size(style), _INK),
            (style.row_notes, _caption_size(style), _FAINT),
        ):
            font, spacing = _font(size), round(size * 1.35)
            text = texts[row] if row < len(texts) else ""
            for line in _wrap(text, grid.titles_width - _GAP, font, max(0, bottom - top) // spacing):
                draw.text((_GAP, top), line, fill=fill, font=font)
                top += spacing


def _draw_flag(draw: ImageDraw.ImageDraw, grid: _Grid, index: int) -> int:
    """A red frame around a flagged picture and its words in white on red below it; the height of these."""
    lines = grid.flags[index] if index < len(grid.flags) else []
    if not lines:
        return 0
    left, top = grid.place(index)
    right, bottom = left + grid.style.tile - 1, top + grid.style.tile_height - 1
    height = len(lines) * grid.line_height
    draw.rectangle((left, top, right, bottom + height), outline=_ALARM, width=max(3, grid.style.tile // 64))
    draw.rectangle((left, bottom, right, bottom + height), fill=_ALARM)
    for number, line in enumerate(lines):
        place = (left + _GAP // 2, bottom + 1 + number * grid.line_height)
        draw.text(place, line, fill=_CARD, font=_font(_caption_size(grid.style)))
    return height


def _draw_text(
    draw: ImageDraw.ImageDraw, grid: _Grid, index: int, place: tuple[int, int], texts: list[list[str]]
) -> None:
    (left, top), lines = place, texts[index] if index < len(texts) else []
    font = _font(_caption_size(grid.style))
    if index < len(grid.style.labels):
        label = _wrap(grid.style.labels[index], grid.style.tile, font, 1)
        draw.text((left, top), label[0] if label else "", fill=_FAINT, font=font)
    words = grid.style.highlight.lower().split()
    bright = bool(words) and holds_trigger(" ".join(lines), grid.style.highlight)
    for number, line in enumerate(lines):
        x, y = float(left), top + grid.label_height + number * grid.line_height
        for word in line.split():
            color = _HIGHLIGHT if bright and word.lower().strip(",.;:!?()\"'") in words else _INK
            draw.text((x, y), word, fill=color, font=font)
            x += font.getlength(word + " ")


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont, most: int = _MAX_CAPTION_LINES) -> list[str]:
    """Break a text into lines of at most `width` pixels less a margin; the last may end in an ellipsis."""
    room = width - _GAP
    lines: list[str] = []
    rest = text.split()
    while rest and len(lines) < most:
        line = _clip(rest.pop(0), room, font)
        while rest and font.getlength(f"{line} {rest[0]}") <= room:
            line = f"{line} {rest.pop(0)}"
        lines.append(line)
    if rest:
        lines[-1] = _clip(lines[-1] + "...", room, font)
    return lines


def _clip(text: str, room: int, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(text[:500]) <= room and len(text) <= 500:
        return text
    kept = text[:500].removesuffix("...")
    while kept and font.getlength(kept + "...") > room:
        kept = kept[:-1]
    return kept.rstrip() + "..."


def _fit(image: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.convert("RGB")
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def _length(texts: Sequence[list[str]], index: int) -> int:
    return len(texts[index]) if index < len(texts) else 0


def _evenly(total: int, most: int) -> list[int]:
    """At most `most` indices below `total`, evenly spread."""
    return list(range(total)) if total <= most else [number * total // most for number in range(most)]


def _caption_size(style: SheetStyle) -> int:
    return max(11, style.tile // 18)


def _title_size(style: SheetStyle) -> int:
    return max(13, style.tile // 14)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
