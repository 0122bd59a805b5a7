"""The report is a page that anybody can read without a network, the card has no gap, the table fits the terminal."""

import io
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from audited import TOWNS, trained

import facekit
from facekit.answers import card as cards
from facekit.answers import report, words
from facekit.answers.evaluate import BLANK, FEW, evaluate
from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, OutputError
from facekit.show import plots

VOID = {"meta", "br", "img", "link", "hr", "input"}
SECTIONS = (
    *("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data"),
    *("Quantitative analyses", "Ethical considerations", "Caveats and recommendations"),
)


class Page(HTMLParser):
    """What a page holds; `wrong` says what is not closed, or closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.wrong, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, *tags):
        return [attrs for tag, attrs in self.tags if tag in tags]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    home = tmp_path_factory.mktemp("report")
    return facekit.load(trained(home)), FeatureSet.load(home / "set")


@pytest.fixture(scope="module")
def found(model):
    return evaluate(*model, ("town", "colour", "age_years"))


@pytest.fixture(scope="module")
def page(found):
    return report.html(found)


def test_the_page_is_well_formed_and_has_what_a_screen_reader_needs(found, page):
    read = Page(page)
    assert read.wrong == [] and page.startswith("<!DOCTYPE html>")
    assert read.all("html") == [{"lang": "en"}]
    assert len(read.all("h1")) == len(read.all("main")) == len(read.all("title")) == 1
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    pictures = read.all("svg", "img")
    assert len(pictures) > 8
    for each in pictures:
        assert (each.get("aria-label") or each.get("alt", "")).strip() and each.get("role", "img") == "img"
    assert len(read.all("table")) == len(read.all("caption")) > 10
    assert all(each.get("scope") in ("col", "row") for each in read.all("th"))
    names = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(names) == len(set(names))
    assert {each["href"].removeprefix("#") for each in read.all("a")} <= set(names)


def test_the_page_needs_nothing_from_elsewhere(page):
    read = Page(page)
    assert not read.all("script", "link", "iframe", "object", "embed", "base")
    for _, attrs in read.tags:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("src", "href", "data", "action", "poster", "srcset"):
                assert value.startswith("#")
    assert "url(" not in page and "@import" not in page and "http" not in page


def test_sections_of_ones_own_stand_before_the_scores_and_their_texts_stay_texts(found):
    picture = plots.png(plots.figure()[0])
    table = pd.DataFrame({"way": ["<i>a</i>", "b|c"], "accuracy": [0.5, 0.75]})
    before = {
        "My <b> question": ["Who is it for? <script>", "one\ntwo <b>"],
        "Tables": [("Ways & means", table), ("A plot", picture)],
    }
    text = report.html(found, "My own & only report", before)
    page = Page(text)
    assert not page.wrong and not page.all("script", "i")
    said = "\n".join(page.texts)
    for each in (
        "My own & only report",
        "My <b> question",
        "Who is it for? <script>",
        "one\ntwo <b>",
        "<i>a</i>",
        "Ways & means",
    ):
        assert each in said
    (image,) = page.all("img")
    assert image["alt"] == "A plot" and b64decode(image["src"].removeprefix("data:image/png;base64,")) == picture
    assert said.index("My <b> question") < said.index("At a glance") and 'href="#section-2"' in text
    assert report.HEADING not in said and report.HEADING in "\n".join(Page(report.html(found)).texts)


def test_texts_of_the_set_stand_on_the_page_as_they_are(found, page):
    read = " ".join(Page(page).texts)
    assert all(town in read for town in TOWNS) and not Page(page).all("b")


@pytest.mark.parametrize("name", ["\0", "a\rb", "=1+1", "<b>&", "{x}", "| -", "value ", "ü" * 60])
def test_any_name_of_a_column_or_group_can_be_told(model, name):
    data = replace(model[1], labels=model[1].labels.rename(columns={"town": name}))
    data.labels["colour"] = data.labels["colour"].map({"dark": name, "bright": "bright"})
    found = evaluate(model[0], data, (name, "colour"), n_boot=20)
    read = Page(report.html(found))
    assert read.wrong == [] and words.plain(name) in " ".join(read.texts)
    text = cards.card(found)
    assert cards.written(text) == {} and max(map(len, report.terminal(found).splitlines())) <= report.WIDTH
    rows = pd.read_csv(io.BytesIO(report.csv(found).encode()), dtype=str, keep_default_na=False)
    assert len(rows) == len(found.scores) and len(rows.columns) == len(found.scores.columns)


def test_figures_on_page_card_and_terminal_are_those_of_the_scores(found, page):
    text, made, lines = " ".join(Page(page).texts), cards.card(found), report.terminal(found)
    seen = 0
    for each in found.tasks:
        for by in ((), ("colour",)):
            for row in each.of(by).query("metric == @each.main").itertuples():
                value = words.interval(row, each.main)
                assert re.fullmatch(r"\d+\.\d+ \[\d+\.\d+, \d+\.\d+\]", value)
                assert value in text and value in made and value in lines
                seen += 1
    assert seen == 6


def test_no_cell_of_a_few_faces_has_a_figure_anywhere(found, page):
    """A cell that is blank in the scores is so in every table; the page's charts leave it out."""
    table = words.wide(found.tasks[0], ("town",)).set_index("town")
    blank = table["faces"].str.startswith((FEW, BLANK))
    assert blank.any() and (table.loc[blank].drop(columns="faces") == "–").all(axis=None)
    labels = [attrs["aria-label"] for attrs in Page(page).all("svg")]
    lost = blank.index[blank]
    assert not any(f"{town} 0" in label for town in lost for label in labels)


def test_the_terminal_is_100_columns_wide_and_says_what_to_know_first(found):
    lines = report.terminal(found).splitlines()
    assert max(map(len, lines)) <= report.WIDTH == 100
    assert [line for line in lines if line.startswith("!")] and lines[0].startswith("side, level on 420 rows")


def test_the_csv_reads_back_as_the_scores(found):
    read = pd.read_csv(io.StringIO(report.csv(found)), dtype={"n": str}, keep_default_na=True)
    assert read.columns.tolist() == [
        "task",
        "metric",
        "town",
        "colour",
        "age_years",
        "n",
        "value",
        "low",
        "high",
        "small",
    ]
    assert read[["value", "low", "high"]].equals(found.scores[["value", "low", "high"]])
    assert read["n"].tolist() == found.scores["n"].map(str).tolist()
    assert read["town"].dropna().tolist() == found.scores["town"].dropna().tolist()
    assert {FEW, BLANK} <= set(read["n"])


# --- the card -------------------------------------------------------------------------------------------------------


def test_the_card_has_every_section_and_no_gap(found):
    text = cards.card(found)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(SECTIONS)
    assert not re.search(r"\{\w*\}|: *\.$|:\*\* *$|None|nan|<NA>", text, re.MULTILINE)
    for heading, body in re.findall(r"^(#+ .*)\n\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL):
        assert body.strip(), heading
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:  # a group is called "a|b_c"
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_card_says_what_the_model_folder_says(found, model):
    text, about = cards.card(found), model[0].about
    data = about["sets"][0]["data"]
    facts = [about["weights"]["sha256"], "side (left, right)", "hidden layer of 8 units", "seed 0"]
    facts += [f"{n:,} {split}" for split, n in data["rows"].items()] + list(data["sha256"].values())
    assert not [fact for fact in facts if fact not in text]


def test_every_note_of_the_evaluation_is_in_card_and_page(found, page):
    text = " ".join(Page(page).texts)
    made = cards.card(found).replace("\\", "")
    assert found.notes and all(note in text and note.replace("\\", "") in made for note in found.notes)


FORBIDDEN = [("race", "AI Act"), ("gender", "gender identity"), ("age_years", "Proving somebody's age")]


@pytest.mark.parametrize(("task", "said"), FORBIDDEN)
def test_the_card_says_what_a_task_must_not_be_used_for(found, task, said):
    part = {**found.part, "tasks": [{**found.part["tasks"][0], "name": task}]}
    text = cards.card(replace(found, part=part))
    forbidden = text.partition("**It must not be used for**")[2].partition("<!-- owner")[0]
    assert said in forbidden and said not in cards.card(found).partition("## Factors")[0]


def test_the_owners_words_are_asked_for_taken_and_kept(found):
    empty = cards.card(found)
    assert cards.waiting(empty) == list(cards.OWNER)
    assert all(asked in empty for asked in cards.OWNER.values())
    given = {name: f"Words {name}, with | and `{{}}`\n\n- and a list" for name in cards.OWNER}
    full = cards.card(found, given)
    assert cards.waiting(full) == [] and cards.written(full) == given and "to be written" not in full
    assert cards.card(found, {}, full) == full
    by_hand = re.sub(r"(<!-- owner: people -->\n).*?\n(<!-- /owner)", r"\1They agreed.\n\2", empty, flags=re.DOTALL)
    again = cards.card(found, {"owner": "We."}, by_hand)
    assert cards.written(again) == {"people": "They agreed.", "owner": "We."}
    assert cards.card(found, {"people": "New."}, by_hand) != by_hand


def test_a_card_that_was_changed_elsewhere_is_not_replaced(found):
    text = cards.card(found)
    for changed in (text.replace("# Model card", "# My card"), text + "\nMore.\n", text.rpartition("<!--")[0], "", "x"):
        with pytest.raises(OutputError, match="outside of the owner's places"):
            cards.card(found, {}, changed)
    with pytest.raises(ConfigError, match="no place called 'x'"):
        cards.card(found, {"x": "y"})


def test_words_that_look_like_a_mark_end_no_place(found):
    sly = "Mine. <!-- /owner -->\n## Factors\n<!-- owner: people -->"
    text = cards.card(found, {"owner": sly})
    assert cards.waiting(text) == [name for name in cards.OWNER if name != "owner"]
    assert cards.card(found, {}, text) == text
