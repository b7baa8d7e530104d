"""textinv play: what is refused before anything is loaded, in one line with status 2."""
import os
import signal
import socket
import sys
import tempfile
import time
from types import ModuleType

import pytest

from ldm import InputError
from textinv.commands import play


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(play, "load_model", lambda *_: pytest.fail("the model was loaded"))


def refused(capsys, *argv):
    """The one line that is printed."""
    assert play.main([*argv, "--no-open"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert f"cannot listen on 127.0.0.1, --port {port}" in refused(capsys, "--port", port)


def test_ports_and_hosts_that_do_not_exist(capsys):
    assert "--port is 70000. Use 1 to 65535." in refused(capsys, "--port", "70000")
    assert "Use another --port" in refused(capsys, "--host", "192.0.2.1")


def test_without_gradio(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "textinv.play.page", raising=False)
    assert refused(capsys) == ('error: the playground needs gradio. Run pip install -e ".[play]".\n')


@pytest.mark.parametrize("host, alone", [("127.0.0.1", True), ("::1", True), ("localhost", True),
                                         ("0.0.0.0", False), ("192.0.2.1", False), ("example", False)])
def test_which_addresses_are_this_machine_alone(host, alone):
    assert play.is_loopback(host) is alone


def test_the_vocabulary_is_handed_on(capsys, monkeypatch):
    def studio(model, source, folder, *, vocab):
        raise InputError(f"{source} {vocab}. Stop here.")

    monkeypatch.setitem(sys.modules, "textinv.play.page", ModuleType("page"))
    monkeypatch.setattr(play, "load_model", lambda *_: None)
    monkeypatch.setattr(play, "Studio", studio)
    assert refused(capsys, "--weights", "x.ckpt", "--vocab", "v.txt") == "error: x.ckpt v.txt. Stop here.\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_cleans_up(name, tmp_path):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, play.ended_by_signals():
        with tempfile.TemporaryDirectory(dir=tmp_path):
            os.kill(os.getpid(), number)
            time.sleep(9)
    assert end.value.code == 128 + number and list(tmp_path.iterdir()) == []
    assert signal.signal(number, signal.SIG_IGN) == before
    try:
        with play.ended_by_signals():
            assert signal.getsignal(number) is signal.SIG_IGN, "as under nohup"
    finally:
        signal.signal(number, before)


def test_it_listens_here_alone_by_default():
    assert play.is_loopback(play.HOST)
