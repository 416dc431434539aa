"""The report as one tall picture: the same story, with only those settings that are not at their default."""

from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw

from ..data.contact_sheet import SheetStyle, contact_sheet
from .chart_drawing import draw_chart
from .chart_picture import to_picture
from .dataset_pictures import ShownPicture
from .lettering import LINE, font_for, wrapped, write
from .loss_chart import Proposal
from .preview_grid import PreviewGrid, thinned
from .report_facts import ReportFacts
from .settings_table import SettingsSection
from .thumbnails import Thumbnail, evenly_chosen

WIDTH, MOST_HEIGHT = 1600, 4500
"""Pixels; rows of previews and of pictures are left out where it would be higher, all but one of each."""
MOST_COLUMNS, MOST_ROWS = 9, 8
SHEET_ROWS, PICTURES_IN_A_ROW = 4, 5
_MARGIN, _GAP, _PADDING = 48, 16, 28
_SHEET_GAP = 14  # of a contact sheet, at its left edge too
_INNER = WIDTH - 2 * _MARGIN
_PAPER, _CARD, _LINE = "#f4f4f1", "#ffffff", "#dddcd5"
_INK, _FAINT, _ACCENT, _SOFT = "#222222", "#67675f", "#b3380f", "#fbeee8"
_TITLE, _HEADING, _TEXT, _SMALL = 52, 30, 22, 18
_LARGEST_CELL, _FRAME = 320, 6
_MOST_CHECKS, _MOST_NOTES, _MOST_LINES, _LONGEST_VALUE = 6, 8, 2, 60
_SHARE_OF_SHEET = 0.25  # of the room that the previews and the sheet have together


def picture_report(facts: ReportFacts) -> Image.Image:
    """The picture, mode RGB, 1600 pixels wide and at most some 4,500 high."""
    header, loss = [_header(facts)], list(_loss(facts))
    end = [
        *_sentences("Checked at the end", facts.told.checks, _MOST_CHECKS),
        *_sentences("Notes", [*facts.told.notes, *facts.failures], _MOST_NOTES),
        *_settings(facts.settings),
    ]
    room = MOST_HEIGHT - 2 * _MARGIN - _height([*header, *loss, *end])
    share = _SHARE_OF_SHEET if facts.pictures.pictures else 0
    previews = _previews(facts.previews, facts.proposal, round(room * (1 - share)))
    blocks = [*header, *previews, *loss, *_pictures(facts, room - _height(previews)), *end]
    page = Image.new("RGB", (WIDTH, 2 * _MARGIN + _height(blocks)), _PAPER)
    top = _MARGIN
    for block in blocks:
        page.paste(block, (_MARGIN, top))
        top += block.height + _GAP
    return page


def _height(blocks: Sequence[Image.Image]) -> int:
    """Of blocks that stand below each other, each with the gap after it."""
    return sum(block.height + _GAP for block in blocks)


def _blank(height: int, color: str = _PAPER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    block = Image.new("RGB", (_INNER, height), color)
    return block, ImageDraw.Draw(block)


def _card(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    block, draw = _blank(height)
    draw.rounded_rectangle((0, 0, _INNER - 1, height - 1), radius=14, fill=_CARD, outline=_LINE, width=2)
    return block, draw


def _paragraph(text: str, size: int = _TEXT, fill: str = _INK, most: int = 1000) -> Image.Image:
    lines = wrapped(text, size, _INNER, most)
    block, draw = _blank(round(len(lines) * size * LINE) + 4)
    for number, line in enumerate(lines):
        write(draw, (0, round(number * size * LINE)), line, size, fill)
    return block


def _heading(text: str) -> Image.Image:
    block, draw = _blank(round(_HEADING * LINE) + _GAP)
    write(draw, (0, _GAP), text, _HEADING, _INK)
    return block


def _stacked(blocks: Sequence[Image.Image]) -> Image.Image:
    whole, _ = _blank(sum(block.height for block in blocks))
    top = 0
    for block in blocks:
        whole.paste(block, (0, top))
        top += block.height
    return whole


def _header(facts: ReportFacts) -> Image.Image:
    parts = [_paragraph(facts.name, _TITLE, most=2), _paragraph(facts.title, _TEXT, _FAINT, 2)]
    if facts.trigger_words:
        parts.append(_trigger(facts.trigger_words))
    return _stacked([*parts, _blank(_GAP)[0], _headline(facts.headline)])


def _trigger(words: str) -> Image.Image:
    block, draw = _blank(round(_TEXT * LINE) + 2 * _GAP)
    left = write(draw, (0, _GAP), "Write into the prompt: ", _TEXT, _INK) + 10
    line = wrapped(words, _TEXT, _INNER - round(left) - 20, 1)[0]
    width = font_for(line, _TEXT).getlength(line)
    box = (left - 10, _GAP - 6, left + width + 10, _GAP + _TEXT * 1.3 + 4)
    draw.rounded_rectangle(box, radius=8, fill=_SOFT)
    write(draw, (left, _GAP), line, _TEXT, _ACCENT)
    return block


def _headline(pairs: Sequence[tuple[str, str]]) -> Image.Image:
    """Pairs of a word and its value in four columns."""
    columns, room = 4, (_INNER - 2 * _PADDING) // 4 - _GAP
    values = [wrapped(value, _TEXT, room, 3) for _, value in pairs]
    rows = [range(start, min(start + columns, len(pairs))) for start in range(0, len(pairs), columns)]
    word_line, line = round(_SMALL * LINE), round(_TEXT * LINE)
    heights = [word_line + line * max(len(values[index]) for index in row) + _GAP for row in rows]
    block, draw = _card(sum(heights) + 2 * _PADDING - _GAP)
    top = _PADDING
    for row, height in zip(rows, heights, strict=True):
        for index in row:
            left = _PADDING + (index - row.start) * (room + _GAP)
            write(draw, (left, top), pairs[index][0], _SMALL, _FAINT)
            for number, text in enumerate(values[index]):
                write(draw, (left, top + word_line + number * line), text, _TEXT, _INK)
        top += height
    return block


def _previews(grid: PreviewGrid, proposal: Proposal, room: int) -> list[Image.Image]:
    """As many prompts as `room` pixels hold, at least one."""
    if not grid.steps:
        return []
    steps = thinned(grid.steps, MOST_COLUMNS, proposal.step)
    chosen = [grid.steps.index(step) for step in steps]
    cell = min(_LARGEST_CELL, (_INNER - 2 * _FRAME + _GAP) // len(steps) - _GAP)
    blocks = [_heading("Previews while it learned"), _step_titles(steps, cell, proposal)]
    room -= _height(blocks) + round(_SMALL * LINE) + 2 * _GAP  # what is left out is told below
    rows = list(zip(grid.prompts, grid.cells, strict=True))[:MOST_ROWS]
    titles = [_paragraph(prompt or "(no prompt)", _TEXT, most=2) for prompt, _ in rows]
    size = cell, max(_LARGEST_CELL, (room - _height(titles)) // len(rows) - _GAP - 2 * _FRAME)
    shown = 0
    for title, (_, pictures) in zip(titles, rows, strict=True):
        row = [title, _row([pictures[index] for index in chosen], steps, size, proposal)]
        room -= _height(row)
        if shown and room < 0:
            break
        blocks += row
        shown += 1
    notes = []
    if len(steps) < grid.num_steps:
        notes.append(f"{len(steps)} of the {grid.num_steps} steps that were drawn")
    if shown < grid.num_prompts:
        notes.append(f"{shown} of {grid.num_prompts} prompts")
    if notes:
        blocks.append(_paragraph(f"Shown: {', '.join(notes)}.", _SMALL, _FAINT))
    return blocks


def _step_titles(steps: Sequence[int], cell: int, proposal: Proposal) -> Image.Image:
    """What stands over the columns; a line more where one of them is proposed."""
    titles = [wrapped(f"step {step:,}" if step else "before", _SMALL, cell, 1) for step in steps]
    if proposal.step in steps and proposal.step:
        titles[steps.index(proposal.step)] += wrapped(proposal.label, _SMALL, cell, 2)
    spacing = round(_SMALL * LINE)
    lines = max(map(len, titles))
    block, draw = _blank(lines * spacing)
    for index, (step, title) in enumerate(zip(steps, titles, strict=True)):
        fill = _ACCENT if proposal.step and step == proposal.step else _FAINT
        for number, line in enumerate(title):
            top = (lines - len(title) + number) * spacing
            write(draw, (_FRAME + index * (cell + _GAP), top), line, _SMALL, fill)
    return block


def _row(
    pictures: Sequence[Thumbnail | None], steps: Sequence[int], size: tuple[int, int], proposal: Proposal
) -> Image.Image:
    cell, highest = size
    images = [None if picture is None else _scaled(picture.image(), cell, highest) for picture in pictures]
    height = max((image.height for image in images if image is not None), default=cell // 2)
    block, draw = _blank(height + 2 * _FRAME)
    for index, (step, image) in enumerate(zip(steps, images, strict=True)):
        left = _FRAME + index * (cell + _GAP)
        if image is None:
            draw.rectangle((left, _FRAME, left + cell - 1, _FRAME + height - 1), outline=_LINE, width=2)
            write(draw, (left + 8, 2 * _FRAME), "no picture", _SMALL, _FAINT)
            continue
        if proposal.step and step == proposal.step:
            right, bottom = left + image.width + _FRAME - 1, image.height + 2 * _FRAME - 1
            draw.rectangle((left - _FRAME, 0, right, bottom), fill=_ACCENT)
        block.paste(image, (left, _FRAME))
    return block


def _scaled(image: Image.Image, width: int, highest: int) -> Image.Image:
    """As wide as its column, and no more than twice as high as that or higher than `highest` pixels."""
    scale = min(width / image.width, min(2 * width, highest) / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _loss(facts: ReportFacts) -> Iterator[Image.Image]:
    yield _heading("Loss")
    if facts.chart is not None:
        chart = to_picture(draw_chart(facts.chart), _INNER - 2 * _PADDING)
        block, _ = _card(chart.height + 2 * _GAP)
        block.paste(chart, (_PADDING, _GAP))
        yield block
    yield _paragraph(facts.chart_text)


def _pictures(facts: ReportFacts, room: int) -> list[Image.Image]:
    """As many rows as `room` pixels hold, at least one."""
    shown = facts.pictures
    blocks: list[Image.Image] = []
    for most in range(SHEET_ROWS * PICTURES_IN_A_ROW, 0, -PICTURES_IN_A_ROW):
        chosen = [shown.pictures[index] for index in evenly_chosen(len(shown.pictures), most)]
        if not chosen:
            break
        blocks = [_heading(f"Pictures trained on ({shown.num_pictures:,})"), _sheet(chosen, facts)]
        if shown.num_pictures > len(chosen):
            more = f"and {shown.num_pictures - len(chosen):,} more"
            blocks.append(_paragraph(more, _SMALL, _FAINT))
        if _height(blocks) <= room:
            break
    return blocks


def _sheet(chosen: Sequence[ShownPicture], facts: ReportFacts) -> Image.Image:
    style = SheetStyle(
        tile=(_INNER + _SHEET_GAP) // PICTURES_IN_A_ROW - _SHEET_GAP,
        labels=[f"{picture.size[0]}x{picture.size[1]}  {picture.name}" for picture in chosen],
        highlight=facts.trigger_words,
    )
    images = [picture.thumbnail.image() for picture in chosen]
    captions = [picture.caption or "(no caption)" for picture in chosen]
    sheet = contact_sheet(images, captions, PICTURES_IN_A_ROW, style)
    block, _ = _blank(sheet.height)
    block.paste(sheet, (-_SHEET_GAP, 0))
    return block


def _sentences(title: str, sentences: Sequence[str], most: int) -> Iterator[Image.Image]:
    if not sentences:
        return
    yield _heading(title)
    yield _stacked([_paragraph(f"-  {text}", most=_MOST_LINES) for text in sentences[:most]])
    if len(sentences) > most:
        yield _paragraph(f"and {len(sentences) - most} more", _SMALL, _FAINT)


def _settings(sections: Sequence[SettingsSection]) -> Iterator[Image.Image]:
    lines = []
    for section in sections:
        changed = [f"{one.name} {_short(one.value)}" for one in section.settings if one.is_changed]
        if changed:
            lines.append(f"{section.title}:  {',  '.join(changed)}")
    if lines:
        yield _heading("Settings that are not at their default")
        yield _stacked([_paragraph(line, most=_MOST_LINES) for line in lines])


def _short(value: str) -> str:
    return f"{value[:_LONGEST_VALUE]}..." if len(value) > _LONGEST_VALUE else value or "(empty)"
