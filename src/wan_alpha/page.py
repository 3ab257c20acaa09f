"""One static HTML page about a set of clips: a table, and pictures that keep their alpha over backgrounds the reader switches.

Everything is in the one file: it makes no request, and its own policy forbids it any. Pictures are PNG, or still or animated WebP
with real alpha; the background behind them is the browser's, so what a switch shows is the file's own transparency.
"""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from wan_alpha.errors import MediaError
from wan_alpha.media.atomic import beside

Cell = str | int | float | None
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"RIFF": "image/webp"}
WIDE = 60  # characters of a cell's text above which it may wrap


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG or WebP file's bytes, and what it shows."""

    label: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Row:
    """One clip: its cells by column, lines of text, pictures."""

    name: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """columns: name -> what it means, shown as a tooltip. totals: a last row that sorting leaves in its place."""

    title: str
    lead: tuple[str, ...] = ()
    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    totals: Row | None = None


def write_page(page: Page, path: Path) -> Path:
    """Write the page, whole or not at all; returns PATH. All text is escaped. MediaError for a picture of another format."""
    with beside(path) as partial:
        partial.write_text(render(page), encoding="utf-8")
    return path


def render(page: Page) -> str:
    """The page as HTML. A row with notes or pictures has a section, and its name in the table leads there."""
    template = Template(files("wan_alpha").joinpath("assets/page.html").read_text(encoding="utf-8"))
    sections = {i: _section(row, i) for i, row in enumerate(page.rows) if row.notes or row.pictures}
    names = [f'<a href="#row-{i}">{escape(row.name)}</a>' if i in sections else escape(row.name) for i, row in enumerate(page.rows)]
    return template.substitute(
        title=escape(page.title),
        lead="\n".join(f"<p>{escape(line)}</p>" for line in page.lead),
        head="<th>clip</th>" + "".join(f'<th title="{escape(why)}">{escape(name)}</th>' for name, why in page.columns.items()),
        body="\n".join(_table_row(name, row, page.columns) for name, row in zip(names, page.rows, strict=True)),
        foot=_table_row(escape(page.totals.name), page.totals, page.columns) if page.totals else "",
        sections="\n".join(sections.values()),
    )


def _table_row(name: str, row: Row, columns: Mapping[str, str]) -> str:
    return f"<tr><td>{name}</td>{''.join(_cell(row.cells.get(column)) for column in columns)}</tr>"


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '<td class="number"></td>'
    if isinstance(value, str):
        return f'<td class="{"wide" if len(value) > WIDE else "text"}">{escape(value)}</td>'
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f'<td class="number">{text}</td>'


def _section(row: Row, number: int) -> str:
    notes = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in row.notes)}</ul>" if row.notes else ""
    figures = "\n".join(_figure(picture) for picture in row.pictures)
    return f'<section id="row-{number}"><h2>{escape(row.name)}</h2>{notes}\n{figures}</section>'


def _figure(picture: Picture) -> str:
    kind = next((kind for signature, kind in SIGNATURES.items() if picture.data.startswith(signature)), None)
    if kind is None:
        raise MediaError(picture.label, got=f"data that begins with {picture.data[:4]!r}", expected="a PNG or WebP file")
    label, data = escape(picture.label), base64.b64encode(picture.data).decode()
    image = f'<img alt="{label}" src="data:{kind};base64,{data}">'
    return f'<figure><figcaption>{label}</figcaption><div class="stage">{image}</div></figure>'
