"""textinv audit: status 0, 1 or 2, text and page."""
import pytest

from textinv.commands import audit, main
from textinv.inside import checks


def test_the_embedded_default(tmp_path, capsys):
    page = tmp_path / "new/audit.html"
    assert main.main(["audit", "--images", "examples/fox", "--init", "wolf", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "checks passed" in out and "tensors of the checkpoint are accounted for" in out
    assert out.strip().endswith(str(page)) and page.read_text().startswith("<!doctype html>")


def test_a_failed_check_is_status_1(capsys, monkeypatch):
    monkeypatch.setattr(checks, "schedule", lambda model: checks.Check("claim", 2.0, 1.0, "of something"))
    with pytest.raises(SystemExit) as exit:
        audit.main(["--images", "examples/fox/snow.png", "--init", "wolf", "--batch", "1"])
    assert exit.value.code == 1
    assert "FAILED  claim: 2 (at most 1; of something)" in capsys.readouterr().out


@pytest.mark.parametrize("name, message", [("notes.html", "already exists"),
                                           ("notes.html/new/x.html", "cannot be written")])
def test_a_page_that_cannot_be_new_is_refused_before_the_audit(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit, "load_model", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "notes.html").write_text("my own")
    assert audit.main(["--images", "examples/fox", "--init", "wolf", "--html", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert (tmp_path / "notes.html").read_text() == "my own"


@pytest.mark.parametrize("argv, message", [
    (["--images", "nowhere", "--init", "wolf"], "nowhere"),
    (["--images", "examples/fox", "--init", "xyzzy"], "xyzzy"),
    (["--images", "examples/fox", "--init", "wolf", "--batch", "0"], "--batch is 0"),
    (["--images", "examples/fox", "--init", "wolf", "--placeholder", "a b"], "a b"),
    (["--init", "wolf"], "--images")])
def test_bad_input_is_one_line(argv, message, capsys):
    assert audit.main(argv) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert message in line and not captured.out
