"""A run's folder: it belongs to one run, a full disk loses nothing, TensorBoard gets the metrics."""
import contextlib
import json
import os
import resource
import sys

import filelock
import pytest

import textinv
import train
from helpers.runs import train_word
from ldm import InputError
from textinv.inversion import Progress
from textinv.running import folder
from textinv.running.folder import RunFolder
from weights.files import atomic_write


def test_a_folder_that_holds_a_run_is_refused_and_kept(learned, image_dir, capsys):
    before = {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()}
    assert train_word("--images", image_dir, "--init", "cat", "--out", learned) == 2
    assert "already contains a run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_one_line(image_dir, tmp_path, monkeypatch, capsys):
    def full(self, progress, lr):
        with self._writing():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "log", full)
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert textinv.Concept.load(tmp_path / "run").info["step"] == 1


@contextlib.contextmanager
def full_disk():
    """Yields a function; once it is called, no file of this process may grow. The limit ends with the block:
    after it pytest itself writes, possibly to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_metrics_that_a_full_disk_does_not_take_at_the_end_are_one_line(tmp_path):
    """They are in a buffer, which is written when the file is closed; the folder is unlocked afterwards."""
    out = RunFolder(tmp_path / "run")
    out.begin({})
    out.log(Progress(1, 1.0, 1.0, 1.0, 1.0, False), 0.1)
    with full_disk() as fill, pytest.raises(InputError, match="run: cannot be written .File too large"):
        fill()
        out.close()
    filelock.FileLock(tmp_path / "run/.lock", timeout=0).acquire()


def test_the_error_that_ends_a_run_is_the_one_that_is_told(image_dir, tmp_path, monkeypatch, capsys):
    """Not the second one, from closing the metrics on the same full disk."""
    with full_disk() as fill:
        def full(self, *_, **__):
            fill()
            raise InputError("the first error")

        monkeypatch.setattr(RunFolder, "save", full)
        assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: the first error"


def test_files_get_the_rights_of_any_new_file(tmp_path):
    """And the process keeps its umask, so that later files do too."""
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a") as partial:
            partial.touch(mode=0o600)
        assert os.umask(0o027) == 0o027 and (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


class Board:
    """Stands in for TensorBoard's writer."""
    written: list = []

    def __init__(self, folder, purge_step):
        self.written.append((folder, purge_step))

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))

    def close(self):
        self.written.append("closed")


def test_tensorboard_gets_the_metrics(image_dir, tmp_path, monkeypatch):
    out, written = tmp_path / "run", []
    monkeypatch.setattr(Board, "written", written)
    monkeypatch.setattr(folder, "summary_writer", lambda: Board)
    assert train_word("--images", image_dir, "--init", "cat", "--out", out, "--eval-every", "2",
                      "--tensorboard") == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = {(name, line[name], line["step"]) for line in lines for name in
                ("loss", "eval_loss", "grad_norm", "v_norm", "cosine") if name in line}
    assert written[0] == (str(out / "tensorboard"), 1) and written[-1] == "closed"
    assert set(written[1:-1]) == expected and len(expected) == 4 * 3 + 1
    assert train.main(["--resume", "--out", str(out), "--steps", "4"]) == 0
    assert (str(out / "tensorboard"), 4) in written


def test_without_tensorboard_one_line_before_anything_is_done(image_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run", "--tensorboard") == 2
    assert "pip install tensorboard" in capsys.readouterr().err and not (tmp_path / "run").exists()
