"""Reads a page as a browser would, for the tests: elements with their attributes, tables, data of charts."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

_VOID = {"meta", "link", "img", "line", "br", "input", "hr"}


@dataclass
class Element:
    name: str
    attributes: dict
    text: str = ""
    inside: list = field(default_factory=list)

    def all(self, name):
        return [found for child in self.inside for found in ([child] if child.name == name else []) + child.all(name)]

    @property
    def whole_text(self):
        return self.text + "".join(child.whole_text for child in self.inside)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        self.open[-1].inside.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].inside.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].text += data


def read_page(path: Path) -> Element:
    """Return the page's root; every element is closed where it was opened."""
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert len(reader.open) == 1, f"<{reader.open[-1].name}> is not closed"
    return reader.root


def tables(page: Element) -> list[list[list[str]]]:
    """Return the rows of the sortable tables, titles first."""
    found = [table for table in page.all("table") if "sortable" in table.attributes.get("class", "")]
    return [
        [[cell.whole_text for cell in row.inside if cell.name in ("th", "td")] for row in table.all("tr")]
        for table in found
    ]


def facts(page: Element) -> dict[str, str]:
    """Return the lines of the tables of facts."""
    found = [table for table in page.all("table") if table.attributes.get("class") == "facts"]
    rows = [row for table in found for row in table.all("tr")]
    return {row.all("th")[0].whole_text: row.all("td")[0].whole_text for row in rows}


def charts(page: Element) -> dict[str, dict]:
    """Return title → the chart as Bokeh's JSON."""
    data = [script for script in page.all("script") if script.attributes.get("id") == "charts-data"]
    if not data:
        return {}
    items = json.loads(data[0].text)
    divs = [div for div in page.all("div") if div.attributes.get("class") == "chart"]
    return {div.all("h3")[0].whole_text: items[div.all("div")[0].attributes["id"]] for div in divs}


def points(chart: dict) -> list[tuple[str, str, float, float]]:
    """Return (scheme, name, x, y) of every point that the pointer finds."""
    found = []

    def walk(thing):
        if isinstance(thing, list):
            for item in thing:
                walk(item)
        if isinstance(thing, dict):
            if thing.get("name") == "ColumnDataSource":
                data = dict(thing["attributes"]["data"]["entries"])
                if "scheme" in data:
                    found.extend(zip(data["scheme"], data["name"], data["x"], data["y"], strict=True))
            for item in thing.values():
                walk(item)

    walk(chart)
    return found
