"""One table of terms: both pages are made of it, and every lesson's link to the glossary leads somewhere."""

from __future__ import annotations

import re

import pytest

from facekit.course.folders import find_lessons
from facekit.course.terms import pages, terms


def test_the_pages_are_those_of_the_table():
    for path, text in pages(terms()).items():
        assert path.read_text(encoding="utf-8") == text, "run: python -m facekit lessons glossary"


def test_every_term_is_there_once_in_order_and_in_one_line():
    known = terms()
    names = [term.name for term in known]
    assert names == sorted(set(names), key=lambda name: (name.casefold(), name))
    words = [term.anchor.casefold() for term in known if not term.code]
    assert len(set(words)) == len(words)
    for term in known:
        assert term.meaning == term.meaning.strip() and term.meaning and not term.meaning.endswith("."), term
        assert term.code or re.fullmatch(r"[가-힣K\- ]+", term.korean), f"{term.name} needs its Korean term"


@pytest.mark.parametrize("lesson", find_lessons(), ids=lambda each: each.stem)
def test_links_to_the_glossary_lead_to_a_term(lesson):
    anchors = {term.anchor for term in terms() if not term.code}
    found = re.findall(r"glossary\.md#([^)\s]*)", lesson.source.read_text(encoding="utf-8"))
    assert set(found) <= anchors
