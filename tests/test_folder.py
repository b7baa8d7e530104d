"""A run's folder: it belongs to one run, a full disk loses nothing, TensorBoard gets the metrics."""
import json
import sys

import textinv
import train
from helpers.runs import train_word
from textinv.running import folder
from textinv.running.folder import RunFolder


def test_a_folder_that_holds_a_run_is_refused_and_kept(learned, pictures, capsys):
    before = {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()}
    assert train_word("--images", pictures, "--init", "cat", "--out", learned) == 2
    assert "already contains a run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_one_line(pictures, tmp_path, monkeypatch, capsys):
    def full(self, progress, lr):
        with self._writing():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "log", full)
    assert train_word("--images", pictures, "--init", "cat", "--out", tmp_path / "run") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert textinv.Concept.load(tmp_path / "run").info["step"] == 1


class Board:
    """Stands in for TensorBoard's writer."""
    written: list = []

    def __init__(self, folder, purge_step):
        self.written.append((folder, purge_step))

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))

    def close(self):
        self.written.append("closed")


def test_tensorboard_gets_the_metrics(pictures, tmp_path, monkeypatch):
    out, written = tmp_path / "run", []
    monkeypatch.setattr(Board, "written", written)
    monkeypatch.setattr(folder, "summary_writer", lambda: Board)
    assert train_word("--images", pictures, "--init", "cat", "--out", out, "--eval-every", "2",
                      "--tensorboard") == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = {(name, line[name], line["step"]) for line in lines for name in
                ("loss", "eval_loss", "grad_norm", "v_norm", "cosine") if name in line}
    assert written[0] == (str(out / "tensorboard"), 1) and written[-1] == "closed"
    assert set(written[1:-1]) == expected and len(expected) == 4 * 3 + 1
    assert train.main(["--resume", "--out", str(out), "--steps", "4"]) == 0
    assert (str(out / "tensorboard"), 4) in written


def test_without_tensorboard_one_line_before_anything_is_done(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train_word("--images", pictures, "--init", "cat", "--out", tmp_path / "run", "--tensorboard") == 2
    assert "pip install tensorboard" in capsys.readouterr().err and not (tmp_path / "run").exists()
