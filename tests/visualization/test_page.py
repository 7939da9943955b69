"""The HTML pieces: escaping, descriptions, contrast."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from densessl.visualization import page
from densessl.visualization.health import LEVELS


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [page.LIGHT, page.DARK], ids=["light", "dark"])
def test_every_text_and_line_colour_reaches_aa(scheme):
    for name, colour in scheme.items():
        if name in ("page", "card", "rule"):
            continue
        for ground in ("page", "card"):
            assert _contrast(colour, scheme[ground]) >= 4.5, (name, ground)


def test_both_schemes_define_the_same_names():
    assert page.LIGHT.keys() == page.DARK.keys()
    assert {f"series-{i + 1}" for i in range(page.NUM_SERIES)} <= page.LIGHT.keys()


def test_picture_holds_its_pixels():
    image = np.full((20, 30, 3), (200, 30, 90), np.uint8)
    html = page.picture(image, 'a "red" field')
    data = html.split("base64,")[1].split('"')[0]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert decoded.shape == (20, 30, 3)
    assert np.abs(decoded.astype(int) - image).max() < 6
    assert "a &quot;red&quot; field" in html


def test_picture_without_description_is_refused():
    with pytest.raises(ValueError, match="alt"):
        page.picture(np.zeros((2, 2, 3), np.uint8), "")


def test_table_marks_the_best_and_escapes():
    html = page.table(["run", "AP"], [["<a>", "1"], ["b", "2"]], caption="c & d", numeric=True, best=[1])
    assert "&lt;a&gt;" in html
    assert '<td class="number best">2</td>' in html
    assert '<td class="number">1</td>' in html
    assert "c &amp; d" in html


def test_lines_stand_out_from_the_page():
    style = page.stylesheet()
    assert "svg .axis{stroke:var(--muted)" in style
    for scheme in (page.LIGHT, page.DARK):
        for name in ("muted", "link", "good", "watch", "bad", *(f"series-{i + 1}" for i in range(6))):
            assert min(_contrast(scheme[name], scheme[g]) for g in ("page", "card")) >= 3, name


def test_every_colour_of_the_rules_is_one_of_the_palette():
    style = page.stylesheet()
    names = set(re.findall(r"var\(--([\w-]+)\)", style)) - {"columns"}
    assert names <= page.LIGHT.keys()
    assert not re.findall(r"#[0-9a-f]{3,6}", style.split("}}", 1)[1])  # a fixed colour knows one scheme only


def test_verdicts_do_not_speak_by_colour_alone():
    assert len(set(LEVELS.values())) == len(LEVELS)
    assert all(LEVELS.values())


def test_nothing_is_wider_than_a_phone():
    style = page.stylesheet()
    body, phone = style[style.index("body{") :], style[style.index("@media (max-width:40rem)") :]
    assert "overflow-wrap:anywhere" in body[: body.index("}")]  # names of runs are long and have no spaces
    assert ".scroll{overflow-x:auto" in style
    assert "auto-fit,minmax(8.5rem,1fr)" in phone


def test_a_table_names_its_columns_and_rows():
    html = page.table(["run", "AP"], [["a", "1"]], caption="c")
    assert html.count('scope="col"') == 2
    assert html.count('scope="row"') == 1
    assert 'tabindex="0"' in html  # scrolls with the arrow keys
