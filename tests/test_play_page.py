"""The playground end to end, in a browser: a server of its own, which fails the test if it contacts
another machine."""
import http.client
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from playwright.sync_api import expect

import textinv
from helpers import ROOT
from helpers.runs import MODEL

# the command, in a process that reports any attempt to contact another machine
SERVER = """
import sys
def told(event, args):
    if event == "socket.getaddrinfo" and args[0] not in ("127.0.0.1", "localhost", None):
        print("OUTSIDE", args, file=sys.stderr, flush=True)
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1"):
        print("OUTSIDE", args, file=sys.stderr, flush=True)
sys.addaudithook(told)
from textinv.commands.play import main
sys.exit(main(sys.argv[1:]))
"""
LONG = 60_000           # milliseconds, on a busy machine
ASKED: list[str] = []   # what a browser has requested from anything but the server


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def server(words):
    """The address of a playground on the model with random weights."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = ["--no-open", "--port", str(port), "--words", str(words), "--weights", MODEL]
    with open(words / "log", "w+") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVER, *argv], cwd=ROOT, text=True,
                                   stdout=subprocess.PIPE, stderr=log)
        try:
            line = process.stdout.readline()
            assert line.startswith(f"http://127.0.0.1:{port}"), (words / "log").read_text()
            yield line.split()[0]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
            process.stdout.close()
    assert ASKED == []
    said = (words / "log").read_text()
    assert "OUTSIDE" not in said and "Traceback" not in said, said


@pytest.fixture
def page(browser, server):
    opened = open_page(browser, server)
    yield opened
    opened.close()


def open_page(browser, server):
    """A browser of its own, which may only contact the server."""
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(LONG)
    page.on("request", lambda request: ASKED.extend(
        [request.url] * (not request.url.startswith((server, "data:", "blob:")))))
    page.goto(server)
    page.get_by_role("button", name="Learn").wait_for()
    return page


def learn(page, images, word, steps):
    """Fill in the form, and press its button."""
    page.locator("input[type=file]").first.set_input_files(sorted(images.glob("*.png")))
    page.get_by_label("Start from").fill("cat")
    page.get_by_label("The new word").fill(word)
    page.get_by_label("number input for Steps", exact=True).fill(str(steps))
    page.locator("#seen img").wait_for()
    page.get_by_role("button", name="Learn").click()


def generate(page, prompt):
    """One image of two steps."""
    page.get_by_label("Prompts, one per line").fill(prompt)
    page.get_by_label("number input for Images per prompt").fill("1")
    page.get_by_label("number input for Sampler steps").fill("2")
    page.get_by_role("button", name="Generate").click()


def learned(page):
    """Wait for the learned word; returns its number of steps."""
    told = page.locator("#learning").get_by_text("Learned “")
    told.wait_for()
    return int(re.search(r"(\d+) of", told.inner_text())[1])


def test_learn_sample_download_and_reload(page, words, image_dir, tmp_path):
    learn(page, image_dir, "*", 20)
    assert learned(page) == 20
    page.locator("svg.chart").first.wait_for()
    page.get_by_label("Show where the words of the first prompt attend").check()
    generate(page, "a photo of a *")
    page.locator("#images img").wait_for()
    page.locator("#attention img").wait_for()
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "word.safetensors")
    concept = textinv.Concept.load(tmp_path / "word.safetensors")
    saved = textinv.Concept.load(words / "word.safetensors")
    assert concept.placeholder == "*" and concept.info["step"] == 20
    assert torch.equal(concept.vectors, saved.vectors)
    page.get_by_role("button", name="Remove").last.click()
    page.locator("#words").get_by_text("Removed “*”").wait_for()
    generate(page, "a photo of a *")
    page.locator("#using").get_by_text("has not learned: learn it first").wait_for()
    learn(page, image_dir, "*", 20)                     # the same once more
    expect(page.get_by_label("Word", exact=True)).to_have_value("*", timeout=LONG)
    page.get_by_role("button", name="Remove").last.click()
    expect(page.get_by_label("Word", exact=True)).to_have_value("", timeout=LONG)
    (tmp_path / "junk.pt").write_bytes(b"junk")
    page.locator("input[type=file]").last.set_input_files([tmp_path / "junk.pt",
                                                           tmp_path / "word.safetensors"])
    page.locator("#words").get_by_text("Added “*”.").wait_for()
    page.locator("#words").get_by_text("Not added: junk.pt").wait_for()
    assert page.get_by_label("Word", exact=True).input_value() == "*"
    again = textinv.Concept.load(words / "word.safetensors")
    assert torch.equal(again.vectors, saved.vectors) and again.info == saved.info


def test_mistakes_are_told_in_a_sentence(page, server, tmp_path):
    def toast(text):
        page.get_by_test_id("toast-body").filter(has_text=text).first.wait_for()

    page.get_by_role("button", name="Learn").click()
    toast("there are no images")
    (tmp_path / "note.png").write_text("no image")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "note.png")
    toast("no readable image (found note.png)")
    (tmp_path / "large.png").write_bytes(bytes(50 << 20))
    page.locator("input[type=file]").last.set_input_files(tmp_path / "large.png")
    toast("maximum allowed size")
    textinv.Concept("<wide>", torch.ones(1, 7)).save(tmp_path / "word.pt")
    page.locator("input[type=file]").last.set_input_files(tmp_path / "word.pt")
    toast("word '<wide>' has dimension 7")
    page.get_by_label("Prompts, one per line").fill(" ")
    page.get_by_role("button", name="Generate").click()
    toast("there are 0 prompts")
    assert "Traceback" not in page.content() and str(tmp_path) not in page.content()
    file = page.request.get(f"{server}gradio_api/file={ROOT / 'setup.cfg'}")
    assert file.status in (403, 404), "no file of the machine is served"


def test_a_second_browser_waits_its_turn_and_a_stop_keeps_the_word(browser, server, page, image_dir):
    learn(page, image_dir, "<first>", 5000)
    page.locator("#learning").get_by_text("Step ").wait_for()
    second = open_page(browser, server)
    generate(second, "a photo of a cat")
    second.get_by_text(re.compile("queue")).first.wait_for()
    second.get_by_role("button", name="Stop").first.click()
    second.get_by_text("Nothing of yours is running").wait_for()
    third = open_page(browser, server)
    generate(third, "a photo of a cat")
    third.get_by_text(re.compile("queue")).first.wait_for()
    third.get_by_role("button", name="Stop").last.click()
    third.get_by_text("Stopping").wait_for()
    page.get_by_role("button", name="Stop").first.click()
    assert 0 < learned(page) < 5000
    second.locator("#images img").wait_for()
    third.get_by_text(re.compile("queue")).first.wait_for(state="detached")
    assert third.locator("#images img").count() == 0, "it did not start"
    second.close()
    third.close()


def test_other_pages_are_refused(server):
    host = server.removeprefix("http://").rstrip("/")
    for method, headers, status in (("GET", {}, 200), ("GET", {"Host": "evil.example"}, 403),
                                    ("POST", {"Origin": "http://evil.example"}, 403),
                                    ("POST", {"Origin": f"http://{host}"}, 422)):
        connection = http.client.HTTPConnection(host)
        connection.request(method, "/gradio_api/queue/join" if method == "POST" else "/", headers=headers)
        assert connection.getresponse().status == status, (method, headers)
        connection.close()


def test_a_closed_browser_leaves_its_word_and_blocks_nobody(browser, server, page, words, image_dir):
    gone = open_page(browser, server)
    learn(gone, image_dir, "<gone>", 5000)
    gone.locator("#learning").get_by_text(re.compile("Step [1-9]")).wait_for()
    gone.close()
    generate(page, "a photo of a cat")
    page.locator("#images img").wait_for()
    assert 0 < textinv.Concept.load(Path(words) / "gone.safetensors").info["step"] < 5000
