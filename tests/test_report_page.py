"""The report as a browser shows it: light and dark, on a phone and on a desktop, with nothing cut off."""
import pytest

from helpers.runs import measure, train_word, write_images


@pytest.fixture(scope="module")
def address(tmp_path_factory, small_clip):
    """The address of the report of a run with everything it can have, and names as long as allowed."""
    folder = tmp_path_factory.mktemp("report")
    word = "<a-word-" + "of-many-signs" * 5 + ">"
    assert train_word("--images", write_images(folder / "cat"), "--init", "cat", "--out", folder / "run",
                      "--preview-every", "4", "--eval-every", "1", "--vectors", "2",
                      "--placeholder", word) == 0
    assert measure(folder / "run", small_clip, "--baseline") == 0
    return f"file://{folder / 'run/report.html'}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address)
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "no horizontal scroll"
    beyond = page.evaluate("""[...document.querySelectorAll("body *")].filter(
        e => { const box = e.getBoundingClientRect();
               return box.left < -1 || box.right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1
                   && getComputedStyle(e).display != "inline" && !e.closest("svg"); }).map(
        e => e.outerHTML.slice(0, 80))""")
    assert beyond == []
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and errors == []
    page.close()


def test_the_three_steps_of_the_story_come_first_and_in_order(browser, address):
    """Side by side on a desktop, stacked on a phone; what the word generates is the largest."""
    for width, axis in ((1280, "x"), (390, "y")):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(address)
        images, word, draws = (section.bounding_box()
                               for section in page.query_selector_all(".story > section"))
        assert images[axis] < word[axis] < draws[axis]
        assert draws["width"] >= images["width"] and images["y"] < 300
        page.close()


def test_text_can_be_read_in_both_schemes(browser, address):
    """Contrast of at least 4.5 between text and page (WCAG 2.1, 1.4.3)."""
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address)
        for kind in ("body", "h1 .word", ".soft", "figcaption", "dt"):
            ink, paper = page.evaluate("""kind => [getComputedStyle(document.querySelector(kind)).color,
                                           getComputedStyle(document.body).backgroundColor]""", kind)
            light, dark = sorted(map(luminance, (ink, paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, kind, ink, paper)
        page.close()


def luminance(color):
    """The relative luminance of "rgb(r, g, b)" (WCAG 2.1)."""
    parts = [int(part) / 255 for part in color[color.index("(") + 1:-1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
