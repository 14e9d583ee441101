"""Self-contained HTML pages: one file, pictures inside, no network, no scripts.

A page is a list of sections, a section a list of blocks: ``Text``, ``Facts``, ``Table``,
``Figure``, ``Film``, ``Code`` and ``Details``. All texts are escaped. Pages follow the reader's
light or dark scheme and fit phones: wide tables scroll by themselves.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from genpolicy.errors import UsageError
from genpolicy.evaluation.tables import begins_with_number, cell_text, check_rows
from genpolicy.files import write_bytes

__all__ = [
    "Block",
    "Code",
    "Details",
    "Facts",
    "Figure",
    "Film",
    "Section",
    "Table",
    "Text",
    "render_report",
    "write_report",
]


@dataclass(frozen=True)
class Text:
    """A paragraph; blank lines separate several."""

    text: str

    def to_html(self) -> str:
        """Return the block as HTML."""
        parts = [p.strip() for p in self.text.split("\n\n") if p.strip()]
        return "".join(f"<p>{_escape(part)}</p>" for part in parts)


@dataclass(frozen=True)
class Facts:
    """Short texts by name, for example a protocol and versions."""

    facts: Mapping[str, str]

    def to_html(self) -> str:
        """Return the block as HTML."""
        rows = "".join(
            f"<div><dt>{_escape(name)}</dt><dd>{_escape(text)}</dd></div>"
            for name, text in self.facts.items()
        )
        return f"<dl>{rows}</dl>"


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Args:
        columns: headings.
        rows: texts or numbers, as many per row as there are columns. Numbers are shown with few
            digits; columns of numbers, or of texts that begin with one, are aligned at the right.
        caption: what the table shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]
    caption: str = ""

    def __post_init__(self) -> None:
        check_rows(self.columns, self.rows)

    def to_html(self) -> str:
        """Return the block as HTML."""
        texts = [[cell_text(value) for value in row] for row in self.rows]
        is_number = [
            i > 0 and bool(texts) and all(begins_with_number(row[i]) for row in texts)
            for i in range(len(self.columns))
        ]
        marks = ["n" if number else "" for number in is_number]
        head = "".join(
            f'<th scope="col"{_class(mark)}>{_escape(name)}</th>'
            for name, mark in zip(self.columns, marks, strict=True)
        )
        body = ""
        for row in texts:
            cells = "".join(
                f"<td{_class(mark, text)}>{_escape(text)}</td>"
                for text, mark in zip(row[1:], marks[1:], strict=True)
            )
            body += f'<tr><th scope="row">{_escape(row[0])}</th>{cells}</tr>'
        caption = f"<figcaption>{_escape(self.caption)}</figcaption>" if self.caption else ""
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<figure>{caption}<div class="scroll" tabindex="0">{table}</div></figure>'


@dataclass(frozen=True)
class Figure:
    """A picture.

    Args:
        png: for a light page.
        alt: what it shows, for those who cannot see it.
        caption: text below it; empty for none.
        dark_png: for a dark page; None shows ``png`` there as well.
    """

    png: bytes
    alt: str
    caption: str = ""
    dark_png: bytes | None = None

    def to_html(self) -> str:
        """Return the block as HTML."""
        source = ""
        if self.dark_png is not None:
            source = (
                '<source media="screen and (prefers-color-scheme: dark)" '
                f'srcset="{_data_url(self.dark_png)}">'
            )
        width, height = _display_size(self.png)
        image = (
            f'<img src="{_data_url(self.png)}" width="{width}" height="{height}" '
            f'alt="{_escape(self.alt)}">'
        )
        caption = f"<figcaption>{_escape(self.caption)}</figcaption>" if self.caption else ""
        return f'<figure class="picture"><picture>{source}{image}</picture>{caption}</figure>'


@dataclass(frozen=True)
class Film:
    """A filmed episode: its filmstrip and, where given, the film itself inside the page.

    Args:
        filmstrip: PNG with pictures of the episode.
        alt: what it shows.
        caption: text below it.
        mp4: H.264 film; None shows the filmstrip alone.
    """

    filmstrip: bytes
    alt: str
    caption: str = ""
    mp4: bytes | None = None

    def to_html(self) -> str:
        """Return the block as HTML."""
        picture = Figure(self.filmstrip, self.alt, self.caption).to_html()
        if self.mp4 is None:
            return picture
        source = "data:video/mp4;base64," + base64.b64encode(self.mp4).decode()
        return (
            f'{picture}<video controls muted preload="metadata" aria-label="{_escape(self.alt)}" '
            f'src="{source}"></video>'
        )


@dataclass(frozen=True)
class Code:
    """Commands or a configuration, as they are."""

    text: str
    caption: str = ""

    def to_html(self) -> str:
        """Return the block as HTML."""
        caption = f"<figcaption>{_escape(self.caption)}</figcaption>" if self.caption else ""
        code = f"<pre><code>{_escape(self.text)}</code></pre>"
        return f"<figure>{caption}{code}</figure>"


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away below a line that names them."""

    title: str
    blocks: Sequence[Block]

    def to_html(self) -> str:
        """Return the block as HTML."""
        body = "".join(block.to_html() for block in self.blocks)
        return f"<details><summary>{_escape(self.title)}</summary>{body}</details>"


_LONG = 44
"""Texts of more characters are wrapped inside their column of a table."""

_PIXELS_PER_POINT = 1.25
"""Pixels of a picture per CSS pixel: figures of the usual width are 690 wide on a desktop."""

Block: TypeAlias = "Text | Facts | Table | Figure | Film | Code | Details"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


def _class(mark: str, text: str = "") -> str:
    """Return the class of a cell: n for numbers, w for texts that are wrapped."""
    names = " ".join(filter(None, [mark, "w" if len(text) > _LONG else ""]))
    return f' class="{names}"' if names else ""


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _data_url(picture: bytes) -> str:
    if not picture.startswith(b"\x89PNG\r\n"):
        raise UsageError(f"Figure: got {picture[:8]!r}..., expected a PNG")
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def _display_size(picture: bytes) -> tuple[int, int]:
    """Return width and height on the page; pictures have more pixels, for sharp screens."""
    pixels = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    width, height = (round(n / _PIXELS_PER_POINT) for n in pixels)
    return width, height


def render_report(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """Return a report as one HTML document.

    Args:
        title: of the page.
        sections: in order; with more than two of them the page has a table of contents.
        subtitle: line below the title, for example a date and a machine.
    """
    parts = [f"<h1>{_escape(title)}</h1>"]
    if subtitle:
        parts.append(f'<p class="subtitle">{_escape(subtitle)}</p>')
    if len(sections) > 2:
        links = "".join(
            f'<li><a href="#s{i}">{_escape(section.title)}</a></li>'
            for i, section in enumerate(sections, start=1)
        )
        parts.append(f'<nav aria-label="contents"><ul>{links}</ul></nav>')
    for i, section in enumerate(sections, start=1):
        blocks = "".join(block.to_html() for block in section.blocks)
        parts.append(f'<section id="s{i}"><h2>{_escape(section.title)}</h2>{blocks}</section>')
    return _PAGE.format(title=_escape(title), style=_STYLE, body="\n".join(parts))


def write_report(
    path: str | Path, title: str, sections: Sequence[Section], *, subtitle: str = ""
) -> Path:
    """Write a report to one HTML file, which is complete or absent, and return its path."""
    target = Path(path)
    write_bytes(target, render_report(title, sections, subtitle=subtitle).encode())
    return target


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { --ink: #1f2328; --soft: #59636e; --line: #d5d9de; --page: #ffffff; --head: #f4f6f8;
  --link: #0a5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --soft: #9aa4af; --line: #3b4149;
  --page: #1a1d21; --head: #23272d; --link: #79b8f2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: .75rem 0; }
.subtitle, figcaption { color: var(--soft); font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: 1rem 0 0;
  list-style: none; }
a { color: var(--link); }
figure { margin: 1rem 0 1.5rem; }
figcaption { margin: .35rem 0; max-width: 44rem; }
.picture img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { background: var(--head); font-weight: 600; }
th[scope="row"] { font-weight: 500; position: sticky; left: 0; background: var(--page);
  min-width: 7rem; max-width: 14rem; white-space: normal; }
th.n, td.n { text-align: right; }
td.w { white-space: normal; min-width: 16rem; max-width: 34rem; overflow-wrap: anywhere; }
dl { display: grid; gap: .3rem; margin: 1rem 0; font-size: .9rem; }
dl div { display: grid; grid-template-columns: 8rem minmax(0, 1fr); gap: .75rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--head); border: 1px solid var(--line); border-radius: 6px; margin: 0;
  padding: .75rem 1rem; font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
video { display: block; width: 100%; max-width: 30rem; margin: -.75rem 0 1.5rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 500; padding: .25rem 0; }
@media (max-width: 30rem) { th[scope="row"] { max-width: 9rem; min-width: 6rem; }
  td.w { min-width: 11rem; }
  dl div { grid-template-columns: 1fr; gap: 0; }
  main { padding-top: 1rem; } h1 { font-size: 1.4rem; } }
"""
