"""Open the playground, a local page to learn words and use them: `textinv play`.

It serves only this machine, unless --host says otherwise, and needs no network.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import ipaddress
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ldm import InputError
from textinv.commands import command
from textinv.commands.arguments import Parser, add_model_options, load_model
from textinv.images import print_warning
from textinv.play.studio import Studio

HOST = "127.0.0.1"              # this machine only


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser("play", __doc__, example="--port 7861")
    parser.add_argument("--words", default="runs/play", metavar="DIR", help="folder of the page's words, "
                        "loaded at startup (default: %(default)s)")
    parser.add_argument("--host", default=HOST, help="address to listen on; with any but the default, "
                        "everyone who can reach it can use the page (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    parser.add_argument("--open", action=argparse.BooleanOptionalAction, default=True,
                        help="open the page in the browser (default: on)")
    add_model_options(parser, "tiny")
    options = parser.parse_args(argv)
    if not 1 <= options.port <= 65535:
        raise InputError(f"`port` is {options.port}. Use 1 to 65535.")
    check_free(options.host, options.port)
    # gradio reads this when it is imported and when its page is built
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        page = importlib.import_module("textinv.play.page")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "gradio":
            raise
        raise InputError('the playground needs gradio. Run pip install -e ".[play]".') from error
    source = options.weights or "tiny"
    studio = Studio(load_model(source, options.vocab, options.dtype, options.device), source,
                    Path(os.path.expanduser(options.words)), vocab=options.vocab)
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="textinv-play-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder              # uploads are deleted when the server stops
        blocks = page.build(studio, Path(folder) / "exports")
        address = page.launch(blocks, options.host, options.port, opens=options.open)
        if not is_loopback(options.host):
            print_warning(f"everyone who can reach {options.host} can use this page and its model")
        print(f"{address}  (Ctrl-C to quit)", flush=True)
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Context manager: SIGTERM and SIGHUP (a closed terminal) end the block as Ctrl-C does, so that all of it
    is cleaned up. Ignored signals, as under nohup, stay ignored."""
    def end(number: int, _: object) -> None:
        sys.exit(128 + number)              # as a shell reports it

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers
              if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_free(host: str, port: int) -> None:
    """Raises InputError if this process cannot listen there; called before anything is loaded."""
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        raise InputError(f"cannot listen on {host}, `port` {port} ({error.strerror}). Use another `port`, or "
                         "another `host`.") from error


def is_loopback(host: str) -> bool:
    """True if an address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
