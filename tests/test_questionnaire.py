"""The user study: the page and its key, what a browser saves from it, and the figure of answers. All answers
here are generated, and say so."""
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.charts import read_chart
from helpers.runs import contents
from helpers.weight_files import edit_json
from textinv.commands import evaluate
from textinv.evaluation import questionnaire as study
from textinv.evaluation.cells import Plan, Result
from textinv.evaluation.evaluate import EDITS, PLAIN
from textinv.evaluation.questionnaire import AGREEMENT, KINDS, LIKENESS, Answers, Question, Questionnaire
from textinv.evaluation.scores import Score
from textinv.evaluation.suites import Sizes, begin

SETUPS = ("ours", "2-word", "low-lr")
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def suite(tmp_path):
    """A finished suite of three setups, two things and two seeds, with images of one color each; and the
    examples."""
    rng, folder = np.random.default_rng(0), tmp_path / "suite"
    training = write_examples(tmp_path / "things", rng)
    begin(folder, Plan("figure10", "m", "float32", "c", 2, 2, 2, 1, 5.0), Sizes(2, 2, 2, 2, 1))
    (folder / "cells").mkdir()
    for setup in (*SETUPS, "image only"):
        for thing in ("fox", "teapot"):
            for seed in range(2):
                samples = {} if setup == "image only" else {
                    template: f"{setup}-{thing}-{seed}-{i}" for i, template in enumerate((PLAIN, *EDITS))}
                for name in samples.values():
                    (folder / "samples" / name).mkdir(parents=True)
                    for i in range(2):
                        Image.new("RGB", (8, 8), tuple(rng.integers(0, 256, 3).tolist())).save(
                            folder / "samples" / name / f"{i:04d}.png")
                (folder / "cells" / f"{setup}-{thing}-{seed}.json".replace(" ", "-")).write_text(json.dumps(
                    {"setup": setup, "thing": thing, "seed": seed, "reconstruction": 0.5, "editability": 0.5,
                     "key": "k", "training": training[thing], "samples": samples}))
    return tmp_path


def write_examples(examples, rng):
    """The examples of two things with five images each; returns the hashes of the images by thing."""
    (examples / "captions").mkdir(parents=True)
    (examples / "captions/objects.json").write_text(json.dumps(
        {name: {"init": "cat", "short": "a dog", "long": "a red dog"} for name in ("fox", "teapot")}))
    for name in ("fox", "teapot"):
        (examples / name).mkdir()
        for i in range(5):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                examples / name / f"{i}.png")
    return {name: [hashlib.sha256((examples / name / f"{i}.png").read_bytes()).hexdigest() for i in range(5)]
            for name in ("fox", "teapot")}


def main(suite, *argv, page="study.html"):
    return evaluate.main(["--questionnaire", str(suite / page), *map(str, argv)])


def refused(capsys, suite, *argv, page="study.html"):
    """The one line that the command ends with; no file changes."""
    capsys.readouterr()
    before = contents(suite)
    assert main(suite, *argv, page=page) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and contents(suite) == before
    return error


@pytest.fixture
def page(suite):
    assert main(suite, "--out", suite / "suite", "--examples", suite / "things", "--setups",
                ",".join(SETUPS)) == 0
    return suite / "study.html"


class Tags(html.parser.HTMLParser):
    """Sections with the number of their images and candidates, and all addresses."""

    def __init__(self):
        super().__init__()
        self.sections, self.sources, self.text = {}, [], ""

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "section":
            self.sections[attributes["data-id"]] = Counter()
        elif self.sections:
            last = next(reversed(self.sections.values()))
            last[attributes.get("class", tag)] += 1
        self.sources += [attributes[name] for name in ("src", "href") if name in attributes]

    def handle_data(self, data):
        self.text += data


def test_the_page_asks_both_questions_and_tells_nothing(page):
    text, tags, made = page.read_text(), Tags(), study.read_key(page)
    tags.feed(text)
    assert len(made.questions) == 8 and list(tags.sections) == [one.id for one in made.questions]
    for question in made.questions:
        counts = tags.sections[question.id]
        assert counts["candidate"] == 3
        assert counts["img"] == 3 + 4 * (question.kind == LIKENESS), "four training images, as in the paper"
        assert (question.text in tags.text) and ("something" in question.text) == (question.kind == AGREEMENT)
        assert sorted(question.setups) == sorted(SETUPS)
        for setup, path in zip(question.setups, question.images, strict=True):
            assert path.startswith(f"samples/{setup}-{question.thing}-")
    assert f'data-questionnaire="{made.hash}"' in text
    assert not [name for name in (*SETUPS, "fox", "samples/") if name in re.sub(r'base64,[^"]*', "", text)]
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert len({one.setups for one in made.questions}) > 1, "the order says nothing"
    assert {path[-8:] for path in made.sha256} == {"0000.png", "0001.png"}, "of both images per prompt"


def test_the_same_suite_gives_the_same_questionnaire(page, suite):
    before = page.read_bytes()
    assert main(suite, "--out", suite / "suite", "--examples", suite / "things", "--setups",
                ",".join(SETUPS)) == 0
    assert page.read_bytes() == before


def test_at_most_twenty_questions_of_each_kind(tmp_path):
    (tmp_path / "samples/x").mkdir(parents=True)
    (tmp_path / "samples/x/0000.png").touch()
    results = [Result(setup, "fox", seed, 0.5, 0.5, "", [], dict.fromkeys((PLAIN, *EDITS), "x"))
               for setup in SETUPS for seed in range(25)]
    made = study.make(tmp_path, results, SETUPS, count=1)
    assert Counter(one.kind for one in made.questions) == {LIKENESS: 20, AGREEMENT: 20}


def test_another_page_or_key_is_not_overwritten(page, suite, capsys):
    """Answers to it may have been collected."""
    error = refused(capsys, suite, "--out", suite / "suite", "--examples", suite / "things", "--setups",
                    "ours,2-word")
    assert "study.key.json: already exists, and is different. Give another name" in error
    page.write_bytes(page.read_bytes() + b"\xff")
    error = refused(capsys, suite, "--out", suite / "suite", "--examples", suite / "things", "--setups",
                    ",".join(SETUPS))
    assert "study.html: already exists" in error


def test_a_page_is_html(suite, capsys):
    error = refused(capsys, suite, "--out", suite / "suite", page="suite/suite.json")
    assert "suite/suite.json, but it is written as HTML. Give a name that ends in .html." in error


def test_words_of_other_images_are_refused(suite, capsys):
    """As after a training image was replaced."""
    Image.new("RGB", (32, 32)).save(suite / "things/teapot/4.png")
    error = refused(capsys, suite, "--out", suite / "suite", "--examples", suite / "things", "--setups",
                    ",".join(SETUPS))
    assert "things/teapot: has other images than those measured in" in error


CLICKS = """<script>
for (const place of [2, 0, 1])
  document.querySelectorAll("section")[0].querySelectorAll(".candidate")[place].click();
const second = document.querySelectorAll("section")[1].querySelectorAll(".candidate");
for (const place of [0, 1, 0, 2, 0]) second[place].click();
document.querySelectorAll("section")[2].querySelectorAll(".candidate")[1].click();
const out = document.createElement("pre");
out.id = "out";
out.textContent = answersText();
document.body.append(out);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_ranks_takes_back_and_saves(page, suite, tmp_path):
    """The first question is answered, the second after a change of mind, the third in part, which does not
    count."""
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.read_text().replace("</body>", CLICKS + "</body>"))
    done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                           f"--user-data-dir={tmp_path / 'profile'}", clicked.as_uri()],
                          capture_output=True, text=True, timeout=120)
    answers = json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.S)[1]))
    made = study.read_key(page)
    assert re.fullmatch(r"([0-9a-f]{1,8}-){3}[0-9a-f]{1,8}", answers.pop("participant"))
    assert answers == {"questionnaire": made.hash, "generated": False, "answers": {
        made.questions[0].id: [2, 0, 1], made.questions[1].id: [1, 2, 0]}}
    assert "2 of 8 answered" in done.stdout and 'id="save" disabled' not in done.stdout


def test_answers_are_kept_until_they_are_saved(page, browser):
    """A reload changes nothing; after saving, it starts anew for another person."""
    tab, made = browser.new_context().new_page(), study.read_key(page)

    def open_page():
        tab.goto(page.as_uri())
        return tab.locator("#done").text_content(), tab.evaluate("participant")

    def save():
        with tab.expect_download() as download:
            tab.locator("#save").click()
        return study.read_answers(download.value.path(), made)

    _, first = open_page()
    for place in (2, 0, 1):
        tab.locator("section").first.locator(".candidate").nth(place).click()
    assert open_page() == ("1 of 8 answered", first)
    saved = save()
    assert (saved.participant, saved.rankings) == (first, {made.questions[0].id: [2, 0, 1]})
    assert save() == replace(saved, path=ANY)
    done, second = open_page()
    assert done == "0 of 8 answered" and second != first
    tab.context.close()


def generated_answers(path, made, best_first, **more):
    """A file of answers that rank setups in an order, marked as made up."""
    answers = {one.id: [one.setups.index(name) for name in best_first] for one in made.questions}
    path.write_text(json.dumps({"questionnaire": made.hash, "participant": path.stem, "generated": True,
                                "answers": answers, **more}))
    return path


def test_preferences_are_normalized_ranks():
    """Three candidates: 1 for the first, 1/2, 0. One person ranks as shown, another has a and c exchanged."""
    made = Questionnaire((Question("likeness-1", LIKENESS, "fox", "", ("a", "b", "c"), ("", "", "")),
                          Question("agreement-1", AGREEMENT, "fox", "x", ("c", "a", "b"), ("", "", ""))), {})
    people = [Answers(None, "p", {"likeness-1": [0, 1, 2], "agreement-1": [0, 1, 2]}, True),
              Answers(None, "q", {"likeness-1": [2, 1, 0]}, True)]
    a, b, c = study.preferences(made, people)
    assert [one.setup for one in (a, b, c)] == ["a", "b", "c"]
    assert [one.scores[LIKENESS].value for one in (a, b, c)] == pytest.approx([0.5, 0.5, 0.5])
    assert [one.scores[AGREEMENT].value for one in (a, b, c)] == pytest.approx([0.5, 0.0, 1.0])
    assert [one.firsts[LIKENESS] for one in (a, b, c)] == [0.5, 0.0, 0.5]
    assert (a.scores[LIKENESS].low, a.scores[LIKENESS].high) == (0.5, 0.5), "two people are too few"
    assert (b.scores[LIKENESS].low, b.scores[LIKENESS].high) == (0.5, 0.5)


def test_an_interval_of_scores_stays_in_their_range():
    one = study._by_person(torch.tensor([[0, 1, 1], [1, 1, 1], [2, 0.5, 0]], dtype=torch.float64))
    assert one.low < one.value < one.high == 1


def test_people_are_resampled_not_their_answers():
    """Each ranks a first once and last once, so people do not differ, though answers do."""
    made = Questionnaire(tuple(Question(f"{kind}-{i}", kind, "fox", "", ("a", "b"), ("", ""))
                               for kind in KINDS for i in range(2)), {})
    people = [Answers(None, name, {f"{kind}-{i}": [i, 1 - i] for kind in KINDS for i in range(2)}, True)
              for name in "pqr"]
    a, b = study.preferences(made, people)
    assert a.scores[LIKENESS] == b.scores[AGREEMENT] == Score(0.5, 0.5, 0.5)


def test_answers_become_the_figure(page, suite, tmp_path, capsys):
    made = study.read_key(page)
    files = [generated_answers(tmp_path / f"{i}.json", made, order) for i, order in enumerate(
        [("ours", "2-word", "low-lr"), ("ours", "low-lr", "2-word")])]
    capsys.readouterr()
    assert main(suite, "--answers", *files) == 0
    said = capsys.readouterr().out
    assert "answer files: 2, GENERATED: 2; 8 rankings by likeness, 8 rankings by agreement" in said
    content = json.loads((suite / "study.answers.json").read_text())
    values = {one["setup"]: one["scores"][LIKENESS]["value"] for one in content["preferences"]}
    assert values == pytest.approx({"ours": 1.0, "2-word": 0.25, "low-lr": 0.25})
    assert content["generated"] == 2
    assert "| ours | 1.000 | 1.000 |" in (suite / "study.answers.md").read_text()
    figure = (suite / "study.answers.svg").read_text()
    assert figure.count("<circle") == 3 and "GENERATED" in figure and ">ours</text>" in figure


def test_one_persons_file_counts_once(page, suite, tmp_path, capsys):
    """As when a browser has saved it twice. Two people who agree are two."""
    made = study.read_key(page)
    files = [generated_answers(tmp_path / f"{name}.json", made, SETUPS, participant=name[0])
             for name in ("a", "a (1)", "b")]
    assert main(suite, "--answers", *files) == 0
    said = capsys.readouterr()
    assert "answer files: 2," in said.out and said.err.count("by the same participant as") == 1
    assert "a (1).json: by the same participant as" in said.err


def test_the_figure_is_likeness_over_agreement(page, suite, tmp_path):
    made = study.read_key(page)
    order = {LIKENESS: ("ours", "2-word", "low-lr"), AGREEMENT: ("2-word", "ours", "low-lr")}
    path = generated_answers(tmp_path / "a.json", made, SETUPS, answers={
        one.id: [one.setups.index(name) for name in order[one.kind]] for one in made.questions})
    assert main(suite, "--answers", path) == 0
    names, places = read_chart((suite / "study.answers.svg").read_text())
    assert names.startswith("likeness over agreement with the text")
    assert places == {"ours": (0.5, 1), "2-word": (1, 0.5), "low-lr": (0, 0)}


def test_the_pages_folder_is_made(suite):
    assert main(suite, "--out", suite / "suite", "--examples", suite / "things", "--setups",
                ",".join(SETUPS), page="new/study.html") == 0
    assert study.read_key(suite / "new/study.html").questions


def test_answers_of_another_questionnaire_are_refused(page, suite, tmp_path, capsys):
    path = generated_answers(tmp_path / "a.json", study.read_key(page), SETUPS, questionnaire="another")
    error = refused(capsys, suite, "--answers", path)
    assert "a.json: answers a different questionnaire ('another', not " in error


@pytest.mark.parametrize("content, message", [
    ("{", "not a file of answers"), ("[]", "not a file of answers"), ("{}", "not a file of answers"),
    ('{"questionnaire": "x", "answers": {}}', "not a file of answers (KeyError('participant'))"),
    ({"likeness-1": [0, 1]}, "the answer to 'likeness-1' is not a ranking of its images"),
    ({"likeness-1": [0, 1, 1]}, "is not a ranking"), ({"likeness-1": [0, 1, 3]}, "is not a ranking"),
    ({"likeness-1": "012"}, "is not a ranking"),
    ({"likeness-99": [0, 1, 2]}, "'likeness-99' is not a ranking"),
    ({"likeness-1": [0, 1, 2]}, "no agreement question was answered"), ({}, "question was answered")])
def test_answers_that_are_none_are_one_line(page, suite, tmp_path, capsys, content, message):
    path, made = tmp_path / "a.json", study.read_key(page)
    path.write_text(content if isinstance(content, str) else json.dumps(
        {"questionnaire": made.hash, "participant": "p", "answers": content}))
    assert message in refused(capsys, suite, "--answers", path)


def test_a_key_that_is_gone_or_edited_is_one_line(page, suite, tmp_path, capsys):
    path = generated_answers(tmp_path / "a.json", study.read_key(page), SETUPS)
    assert "nowhere.json: cannot be read" in refused(capsys, suite, "--answers", tmp_path / "nowhere.json")
    key = suite / "study.key.json"
    edit_json(key, sha256={})
    assert "study.key.json: was edited" in refused(capsys, suite, "--answers", path)
    key.write_text("{}")
    assert "study.key.json: damaged" in refused(capsys, suite, "--answers", path)
    key.unlink()
    assert "study.key.json: No such file or directory. Give the page" in refused(capsys, suite, "--answers",
                                                                                path)


@pytest.mark.parametrize("setups, message", [
    ("ours,3-word", "no thing has images from all of ours, 3-word"), ("ours", "choose two or more"),
    ("ours,image only", "no thing has images from all"), ("ours,theirs", "'theirs' is not one of ours")])
def test_setups_that_were_not_measured_are_one_line(suite, capsys, setups, message):
    assert message in refused(capsys, suite, "--out", suite / "suite", "--setups", setups)


def test_without_a_suite_there_is_nothing_to_ask(suite, capsys):
    assert "contains no suite" in refused(capsys, suite, "--out", suite / "none")


def test_a_result_without_some_prompts_is_left_out(suite, capsys):
    for path in (suite / "suite/cells").glob("ours-*.json"):
        edit_json(path, samples={PLAIN: "x"})
    assert "no thing has images from all of ours" in refused(capsys, suite, "--out", suite / "suite",
                                                             "--setups", ",".join(SETUPS))


def test_images_that_are_damaged_or_gone_are_one_line(suite, capsys):
    argv = ("--out", suite / "suite", "--examples", suite / "things", "--setups", ",".join(SETUPS))
    for path in (suite / "suite/samples").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:50])
    assert "cannot be read as an image" in refused(capsys, suite, *argv)
    shutil.rmtree(suite / "suite/samples")
    assert "cannot be read (No such file" in refused(capsys, suite, *argv)


def test_answers_need_their_page(capsys):
    assert evaluate.main(["--answers", "a.json"]) == 2
    assert "--questionnaire" in capsys.readouterr().err
