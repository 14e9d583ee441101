"""A page as a parser sees it: its tags, addresses and texts, and that tags match."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects tags, addresses and texts, and fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parse(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def check_self_contained(page: str) -> Checker:
    """Check that a page needs no other file and no network, and return what is in it."""
    checker = parse(page)
    data = ("data:image/png;base64,", "data:video/mp4;base64,", "#s")
    assert [a for a in checker.addresses if not a.startswith(data)] == []
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(checker.tags)
    assert "default-src 'none'" in page
    assert 'name="viewport"' in page
    return checker
