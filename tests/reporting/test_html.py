import struct
import zlib

import pytest

from bayesdrop.errors import DataError
from bayesdrop.reporting.document import Document, Picture, Section, Table
from bayesdrop.reporting.html import to_html
from tests.reporting.page import Page, check_page

EVIL = """</p><script>alert('x')</script>"'&<img src=x onerror=y>"""


def png(width, height):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x7f" * width for _ in range(height)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def document(word="word"):
    return Document(
        f"title {word}",
        [f"lead {word}"],
        [
            Section(
                f"one {word}", [f"text {word}", Picture("a.png", f"caption {word}", lambda: 0)]
            ),
            Section(
                "two", [Table(["", f"head {word}"], [[word, "1.5"], ["b", "–"]], f"cap {word}")]
            ),
            Section("two", []),
        ],
    )


def test_a_page_is_whole_and_self_contained():
    page = check_page(to_html(document(), {"a.png": png(300, 150)}, footer="the end"))
    assert page.headings == ["title word", "one word", "two", "two"]
    assert page.tables == [[["", "head word"], ["word", "1.5"], ["b", "–"]]]
    (image,) = page.images
    assert (image["alt"], image["width"], image["height"]) == ("caption word", "192", "96")
    assert {"one-word", "two", "two-2"} <= set(page.ids)
    assert page.text.endswith("the end")


def test_names_cannot_inject_anything():
    page = check_page(to_html(document(EVIL), {"a.png": png(3, 3)}, footer=EVIL))
    clean = check_page(to_html(document(), {"a.png": png(3, 3)}))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in clean.tags]
    squeezed = " ".join(EVIL.split())
    assert page.headings[0] == f"title {EVIL}" and f"text {squeezed}" in page.text
    assert page.images[0]["alt"] == f"caption {EVIL}"
    assert page.tables[0][1][0] == EVIL


def test_words_stand_left_and_numbers_right():
    table = Table(["", "w", "n"], [["a", "up", "-1.0 (2)"], ["b", "down", "–"]], "c")
    page = Page(to_html(Document("t", [], [Section("s", [table])]), {}))
    cells = [attributes.get("class") for tag, attributes in page.tags if tag in ("td", "th")]
    assert cells == ["text", "text", None] + 2 * [None, "text", None]


def test_pictures_that_were_not_drawn_are_left_out():
    assert check_page(to_html(document(), {})).images == []


def test_what_is_not_a_png_is_refused():
    with pytest.raises(DataError, match="image 'a.png': expected a PNG, got 7 other bytes"):
        to_html(document(), {"a.png": b"GIF89a!"})


def test_the_same_document_is_markdown():
    text = document("a|b<c>*d*").to_markdown()
    assert "# title a\\|b\\<c\\>\\*d\\*" in text
    assert "| a\\|b\\<c\\>\\*d\\* | 1.5 |" in text
    assert "](a.png)" in text and "a.png" not in document().to_markdown(pictures=False)
