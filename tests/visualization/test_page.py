"""The HTML pieces: escaping, descriptions, contrast."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from densessl.visualization import page


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
