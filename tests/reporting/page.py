"""A strict reader of HTML pages."""

import base64
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input", "col"}


class Page(HTMLParser):
    """A page whose tags must be closed in order; keeps images, links, headings and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids = [], [], []
        self.images, self.headings, self.tables, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] in ("style", "title"):
            return
        self.texts.append(data)
        if self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def check_page(text):
    """Check that a page is whole, self-contained and accessible; return it."""
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    lower = text.lower()
    for fetched in ("http://", "https://", "<script", "url(", "@import", "<iframe", "file:"):
        assert fetched not in lower, fetched
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    for image in page.images:
        kind, _, code = image["src"].partition(";base64,")
        assert kind == "data:image/png"
        assert base64.b64decode(code, validate=True).startswith(b"\x89PNG\r\n\x1a\n")
        assert image["alt"].strip() and int(image["width"]) > 0 and int(image["height"]) > 0
    assert len(set(page.ids)) == len(page.ids)
    targets = {a["href"][1:] for t, a in page.tags if t == "a"}
    assert targets <= set(page.ids)
    (language,) = [attributes for tag, attributes in page.tags if tag == "html"]
    assert language["lang"] == "en"
    assert [tag for tag, _ in page.tags].count("h1") == 1
    assert [tag for tag, _ in page.tags].count("main") == 1
    for table in page.tables:
        assert len({len(row) for row in table}) == 1, table
    return page
