import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from wan_alpha.errors import MediaError
from wan_alpha.media.clip import RgbaClip
from wan_alpha.media.write import webp_bytes
from wan_alpha.page import Page, Picture, Row, render, write_page


class Seen(HTMLParser):
    """Every tag with its attributes, and the text of each cell; unbalanced tags are listed."""

    VOID = ("meta", "img", "input")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def parse(page: Page) -> Seen:
    seen = Seen()
    seen.feed(render(page))
    seen.close()
    return seen


def disc(frames: int = 3, height: int = 12, width: int = 20) -> RgbaClip:
    rgb = np.full((frames, height, width, 3), (200, 40, 10), np.uint8)
    alpha = np.zeros((frames, height, width), np.uint8)
    for t in range(frames):
        alpha[t, 2:8, t : t + 6] = 128 + t
    return RgbaClip(rgb=rgb, alpha=alpha, fps=16.0)


def page(*rows: Row, **settings: object) -> Page:
    return Page(title="A <page>", columns={"psnr": "decibels, higher is better", "note": "text"}, rows=rows, **settings)


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path) -> None:
    row = Row(name="disc", cells={"psnr": 31.25}, pictures=(Picture(label="truth", data=webp_bytes(disc())),))
    path = write_page(page(row), tmp_path / "new" / "page.html")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", text)
    assert not re.search(r"https?:|@import|url\(", text)
    policy = next(tag["content"] for tag in parse(page(row)).all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_tags_balance_and_cells_stand_in_their_columns() -> None:
    rows = (
        Row(name="one", cells={"psnr": 31.23456, "note": "fine"}, notes=("soft edge",)),
        Row(name="two", cells={"note": "x" * 80}),
        Row(name="three", cells={"psnr": float("nan"), "note": 7}),
    )
    seen = parse(page(*rows, lead=("first line", "second"), totals=Row(name="mean", cells={"psnr": 30.0})))
    assert (seen.open, seen.wrong) == ([], [])
    assert seen.cells == ["one", "31.23", "fine", "two", "", "x" * 80, "three", "", "7", "mean", "30", ""]
    assert [tag.get("title") for tag in seen.all("th")] == [None, "decibels, higher is better", "text"]
    assert [tag["id"] for tag in seen.all("section")] == ["row-0"]
    assert [tag["href"] for tag in seen.all("a")] == ["#row-0"]


def test_text_from_outside_is_escaped() -> None:
    bad = '<script>alert("1")</script>&$title'
    seen = parse(
        page(Row(name=bad, cells={"note": bad}, notes=(bad,), pictures=(Picture(label=bad, data=webp_bytes(disc())),)), lead=(bad,))
    )
    assert len(seen.all("script")) == 1
    assert seen.all("img")[0]["alt"] == bad
    assert seen.cells[0] == seen.cells[2] == bad


def test_pictures_are_the_files_given() -> None:
    data = webp_bytes(disc())
    png = io.BytesIO()
    Image.new("RGBA", (2, 2)).save(png, format="PNG")
    seen = parse(page(Row(name="disc", pictures=(Picture(label="a", data=data), Picture(label="b", data=png.getvalue())))))
    sources = [str(tag["src"]) for tag in seen.all("img")]
    assert sources[0] == "data:image/webp;base64," + base64.b64encode(data).decode()
    assert sources[1].startswith("data:image/png;base64,")
    with pytest.raises(MediaError, match="PNG or WebP"):
        render(page(Row(name="disc", pictures=(Picture(label="mp4", data=b"\x00\x00\x00 ftyp"),))))


def test_every_background_and_any_colour_can_be_chosen() -> None:
    inputs = parse(page()).all("input")
    backgrounds = [tag.get("value") for tag in inputs if tag.get("name") == "background"]
    assert backgrounds == ["var(--board)", "#000", "#fff", "#808080", "#f0f", None]
    assert [tag["id"] for tag in inputs if tag["type"] == "color"] == ["colour"]
