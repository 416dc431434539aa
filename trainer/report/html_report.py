"""The report as one HTML page that needs no script, no network and no other file."""

import re
from collections.abc import Iterator, Sequence

from .chart_drawing import draw_chart
from .chart_svg import to_svg
from .dataset_pictures import ShownPictures
from .loss_chart import Proposal
from .markup import Markup, element, joined
from .page_style import STYLE
from .preview_grid import PreviewGrid
from .report_facts import ReportFacts
from .settings_table import Setting, SettingsSection
from .thumbnails import Thumbnail

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page's own Content-Security-Policy: it may load nothing and run nothing."""


def html_report(facts: ReportFacts) -> str:
    """The whole page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{facts.name}: training report"),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element(
            "main",
            *_header(facts),
            *_previews(facts.previews, facts.proposal),
            *_loss(facts),
            *_pictures(facts.pictures),
            *_checks(facts),
            _settings(facts.settings),
            _folded("The report as text", element("pre", facts.told.report)),
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _header(facts: ReportFacts) -> Iterator[Markup]:
    yield element("h1", facts.name)
    yield element("p", facts.title, class_="lead")
    if facts.trigger_words:
        chip = element("span", facts.trigger_words, class_="chip")
        yield element("p", "Write into the prompt: ", chip, class_="trigger")
    pairs = [element("div", element("dt", word), element("dd", value)) for word, value in facts.headline]
    yield element("dl", *pairs, class_="facts card")


def _previews(grid: PreviewGrid, proposal: Proposal) -> Iterator[Markup]:
    if not grid.steps:
        return
    yield element("h2", "Previews while it learned")
    heads = [
        element("th", _step_title(step, proposal), scope="col", class_=_proposed(step, proposal))
        for step in grid.steps
    ]
    rows = [element("tr", *heads)]
    for prompt, pictures in zip(grid.prompts, grid.cells, strict=True):
        title = element("span", prompt or "(no prompt)")
        rows.append(element("tr", element("th", title, colspan=len(grid.steps), class_="prompt")))
        cells = [
            element("td", _preview(picture, step, prompt), class_=_proposed(step, proposal))
            for step, picture in zip(grid.steps, pictures, strict=True)
        ]
        rows.append(element("tr", *cells))
    columns = f"--columns:{len(grid.steps)}"
    table = element("table", element("tbody", *rows), class_="previews", style=columns)
    yield element("div", table, class_="card scroll")
    yield element("p", _about_grid(grid, proposal), class_="faint")


def _step_title(step: int, proposal: Proposal) -> str:
    title = "before training" if step == 0 else f"step {step:,}"
    return f"{title}, {proposal.label}" if _proposed(step, proposal) else title


def _proposed(step: int, proposal: Proposal) -> str | None:
    return "proposed" if proposal.step and step == proposal.step else None


def _preview(picture: Thumbnail | None, step: int, prompt: str) -> Markup:
    if picture is None:
        return element("span", "no picture", class_="none")
    return _image(picture, f"step {step}: {prompt}")


def _image(picture: Thumbnail, text: str) -> Markup:
    size = {"width": picture.width, "height": picture.height}
    return element("img", src=picture.data_uri, alt=text, title=text, **size)


def _about_grid(grid: PreviewGrid, proposal: Proposal) -> str:
    """What the grid leaves out."""
    sentences = ["Each row is drawn from the same noise."]
    if grid.num_steps > len(grid.steps):
        sentences.append(f"{len(grid.steps)} of the {grid.num_steps} steps that were drawn are shown.")
    if grid.num_prompts > len(grid.prompts):
        sentences.append(f"{grid.num_prompts - len(grid.prompts)} more prompts are in the folder samples.")
    if proposal.step and proposal.step not in grid.steps:
        sentences.append(f"At step {proposal.step:,}, {proposal.label}, nothing was drawn.")
    return " ".join(sentences)


def _loss(facts: ReportFacts) -> Iterator[Markup]:
    yield element("h2", "Loss")
    if facts.chart is not None:
        chart = to_svg(draw_chart(facts.chart), "The loss over the steps of the run")
        yield element("div", chart, class_="card scroll")
    yield element("p", facts.chart_text)


def _pictures(shown: ShownPictures) -> Iterator[Markup]:
    yield element("h2", f"Pictures trained on ({shown.num_pictures:,})")
    figures = []
    for picture in shown.pictures:
        width, height = picture.size
        text = joined(
            element("span", *_highlighted(picture.caption, shown.trigger_words), class_="caption"),
            element("small", f"{width} x {height}, {picture.name}"),
        )
        figures.append(
            element("figure", _image(picture.thumbnail, picture.name), element("figcaption", text))
        )
    yield element("div", *figures, class_="sheet")
    more = shown.num_pictures - len(shown.pictures)
    if more > 0:
        yield element("p", f"and {more:,} more, an even choice is shown", class_="faint")


def _highlighted(caption: str, trigger: str) -> Iterator[str]:
    """The caption, with the trigger words marked wherever they stand in it as whole words."""
    if not caption:
        yield element("span", "(no caption)", class_="faint")
        return
    pattern = r"\s+".join(map(re.escape, trigger.split()))
    if not pattern:
        yield caption
        return
    for number, part in enumerate(re.split(rf"(?<!\w)({pattern})(?!\w)", caption, flags=re.IGNORECASE)):
        yield element("mark", part) if number % 2 else part


def _checks(facts: ReportFacts) -> Iterator[Markup]:
    for title, sentences in (
        ("Checked at the end", facts.told.checks),
        ("Notes", [*facts.told.notes, *facts.failures]),
    ):
        if sentences:
            yield element("h2", title)
            yield element("div", element("ul", *(element("li", text) for text in sentences)), class_="card")


def _settings(sections: Sequence[SettingsSection]) -> Markup:
    tables = [
        element(
            "section",
            element("h3", section.title),
            element("table", element("tbody", *map(_row, section.settings)), class_="values"),
        )
        for section in sections
    ]
    changed = sum(section.num_changed for section in sections)
    return _folded(
        f"All settings ({changed} not at their default)", element("div", *tables, class_="sections")
    )


def _row(setting: Setting) -> Markup:
    usual = [element("small", f"default {setting.usual or '(empty)'}")] if setting.is_changed else []
    value = element("td", setting.value or "(empty)", *usual)
    return element("tr", element("td", setting.name), value, class_="changed" if setting.is_changed else None)


def _folded(title: str, content: Markup) -> Markup:
    return element("details", element("summary", title), content)
