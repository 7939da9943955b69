"""The HTML of a report: one file that loads nothing, in light and dark, for phone and desk.

Every function returns HTML text and escapes what it is given, except the arguments named `body`, which
are HTML already. There is no script: sections, links and `details` work from the keyboard natively.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

# Every text colour below reaches 4.5:1 (WCAG AA) on both `page` and `card` of its own scheme; the test
# of this module computes the ratios. `series-N` colour the lines of the charts and their legends.
LIGHT = {
    "page": "#ffffff",
    "card": "#f4f6f8",
    "text": "#1b1f24",
    "muted": "#505a66",
    "rule": "#c9d1d9",
    "link": "#0b57b0",
    "good": "#116329",
    "watch": "#7d4e00",
    "bad": "#a40e26",
    "series-1": "#0b62c4",
    "series-2": "#a84300",
    "series-3": "#12702f",
    "series-4": "#7a3fd1",
    "series-5": "#b0174a",
    "series-6": "#505a66",
}
DARK = {
    "page": "#12161c",
    "card": "#1b212a",
    "text": "#e6e9ee",
    "muted": "#a9b3bf",
    "rule": "#3a4450",
    "link": "#8ab8ff",
    "good": "#63d083",
    "watch": "#f0b35e",
    "bad": "#ff9a9a",
    "series-1": "#6cb2ff",
    "series-2": "#f5a364",
    "series-3": "#5fcf82",
    "series-4": "#c6a0ff",
    "series-5": "#ff8fb0",
    "series-6": "#a9b3bf",
}
NUM_SERIES = 6

_RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;overflow-wrap:anywhere;background:var(--page);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif}
header,main,footer{max-width:72rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.35rem;line-height:1.25;margin:2.75rem 0 .6rem;padding-top:1.1rem;
border-top:1px solid var(--rule)}
h3{font-size:1.05rem;line-height:1.3;margin:1.6rem 0 .5rem}
p{max-width:46rem;margin:.5rem 0 .9rem}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{
outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
.muted{color:var(--muted)}
nav ul{display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;list-style:none;padding:0;margin:1rem 0 0}
nav a{display:inline-block;padding:.25rem 0}
.scroll{overflow-x:auto;margin:0 0 1.1rem;border:1px solid var(--rule);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:.93rem;font-variant-numeric:tabular-nums}
.caption{color:var(--muted);font-size:.88rem;margin:1rem 0 .35rem}
thead tr:first-child th{border-top:0}
th,td{overflow-wrap:normal;padding:.42rem .75rem;text-align:left;
vertical-align:top;border-top:1px solid var(--rule)}
thead th{background:var(--card);white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}
.number{text-align:right;white-space:nowrap}
td.best{font-weight:700}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr))}
.pairs{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,28rem),1fr))}
.strip{display:grid;gap:.6rem;grid-template-columns:repeat(var(--columns),minmax(0,1fr));
margin:.4rem 0 1.4rem}
figure{margin:0;padding:.75rem;background:var(--card);border-radius:8px;min-width:0}
.strip.stack{grid-template-columns:repeat(auto-fit,minmax(min(100%,15rem),1fr))}
.strip figure{padding:0;background:none}
figcaption{font-size:.88rem;color:var(--muted);margin-top:.4rem}
figcaption strong{color:var(--text)}
img,svg{display:block;width:100%;height:auto;border-radius:4px}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--muted)}
svg .axis{stroke:var(--muted);stroke-width:1;fill:none}
svg .tick{stroke:var(--rule);stroke-width:1;fill:none}
svg .curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
svg .reference{stroke:var(--text);stroke-width:1;stroke-dasharray:2 4;fill:none}
.legend{display:flex;flex-wrap:wrap;gap:.15rem .9rem;list-style:none;margin:.3rem 0 0;
padding:0;font-size:.85rem}
.legend svg{display:inline-block;width:26px;height:8px;vertical-align:middle;margin-right:.35rem}
.swatch{display:inline-block;width:.9em;height:.9em;border-radius:3px;margin-right:.35rem;vertical-align:-.08em;
border:1px solid var(--muted)}
.verdicts{list-style:none;padding:0;margin:.6rem 0}
.verdicts li{background:var(--card);border-left:5px solid var(--muted);border-radius:6px;padding:.6rem .85rem;
margin:.5rem 0;max-width:52rem}
.verdicts .good{border-color:var(--good)}.verdicts .watch{border-color:var(--watch)}
.verdicts .bad{border-color:var(--bad)}
.level{font-weight:700;margin-right:.4rem}
.good .level{color:var(--good)}.watch .level{color:var(--watch)}.bad .level{color:var(--bad)}
.info .level{color:var(--muted)}
details{margin:.35rem 0}
summary{cursor:pointer;color:var(--link);font-size:.9rem;padding:.2rem 0}
pre{background:var(--card);border-radius:8px;padding:.8rem;overflow-x:auto;font-size:.86rem;line-height:1.45}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.92em}
.missing{border:1px dashed var(--muted);border-radius:8px;padding:.7rem .9rem;max-width:46rem}
footer{margin-top:3rem;padding-top:1rem;padding-bottom:2.5rem;border-top:1px solid var(--rule)}
@media (max-width:40rem){header,main,footer{padding-left:.9rem;padding-right:.9rem}h1{font-size:1.55rem}
tbody th{white-space:normal;overflow-wrap:anywhere;min-width:9.5rem}
.strip,.strip.stack{grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))}
.grid,.pairs{grid-template-columns:minmax(0,1fr)}}
@media print{h2{break-after:avoid}figure{break-inside:avoid}}
"""


def stylesheet() -> str:
    """The whole style of the page: `LIGHT`, `DARK` where the reader's system asks for it, and the rules."""
    light, dark = (
        ";".join(f"--{name}:{value}" for name, value in scheme.items()) for scheme in (LIGHT, DARK)
    )
    return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{_RULES}"


def picture(image: np.ndarray, alt: str, *, quality: int = 86) -> str:
    """An image embedded in the page as JPEG.

    Args:
        image: (H, W, 3) uint8 RGB.
        alt: what the picture shows, for readers who do not see it; must not be empty.
        quality: of the JPEG, 1-95.
    """
    if not alt:
        raise ValueError("a picture of the report needs a description: pass alt")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = image.shape[:2]
    size = f'width="{width}" height="{height}"'
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt)}" {size} loading="lazy">'


def figure(body: str, caption_body: str = "") -> str:
    """A figure around `body`; the caption is HTML too, so that it can hold emphasis and lists."""
    caption = f"<figcaption>{caption_body}</figcaption>" if caption_body else ""
    return f"<figure>{body}{caption}</figure>"


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    numeric: bool = False,
    best: Sequence[int | None] = (),
) -> str:
    """A table whose first column names the rows; it scrolls sideways on its own where it does not fit.

    Args:
        headers: one per column.
        rows: text cells, as many as headers.
        caption: one sentence above the table; also its name for assistive technology.
        numeric: aligns all columns but the first to the right.
        best: per column after the first, the row index shown in bold, or None.
    """
    kind = ' class="number"' if numeric else ""
    head = "".join(f'<th scope="col"{kind if i else ""}>{escape(h)}</th>' for i, h in enumerate(headers))
    lines = []
    for index, row in enumerate(rows):
        cells = [f'<th scope="row">{escape(row[0])}</th>']
        for column, cell in enumerate(row[1:]):
            names = ["number"] if numeric else []
            if column < len(best) and best[column] == index:
                names.append("best")
            attribute = f' class="{" ".join(names)}"' if names else ""
            cells.append(f"<td{attribute}>{escape(cell)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        # Beside the scrolling box, not inside the table: there it would be cut on a phone.
        f'<p class="caption">{escape(caption)}</p>'
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def missing(text: str) -> str:
    """Says in the page what is not there and what would bring it, in place of a picture or table."""
    return f'<p class="missing">{escape(text)}</p>'


def code_block(text: str) -> str:
    """Commands or settings, kept as they are; focusable, because long lines scroll."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def details(summary: str, body: str) -> str:
    """Content that opens on demand, with mouse or keyboard."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def section(identifier: str, heading: str, body: str) -> str:
    """A section with its heading; `identifier` is what the contents list links to."""
    name = escape(identifier)
    title = f'<h2 id="{name}-h">{escape(heading)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-h">{title}{body}</section>'


def page(title: str, lead: str, sections: Sequence[tuple[str, str, str]], footer: str) -> str:
    """The finished document.

    Args:
        title: heading and window title.
        lead: one or two sentences under the heading.
        sections: (identifier, heading, body) in reading order.
        footer: one sentence at the end.
    """
    links = "".join(f'<li><a href="#{escape(i)}">{escape(heading)}</a></li>' for i, heading, _ in sections)
    content = "\n".join(section(*item) for item in sections)
    # The policy makes "loads nothing" a rule that the browser enforces.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{stylesheet()}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header><h1>{escape(title)}</h1><p class="muted">{escape(lead)}</p>
<nav aria-label="Contents"><ul>{links}</ul></nav></header>
<main id="content">
{content}
</main>
<footer><p class="muted">{escape(footer)}</p></footer>
</body>
</html>
"""
