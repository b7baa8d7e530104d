"""The playground answers only its own pages, under the names that it serves."""
import asyncio

import pytest

from textinv.play.guard import OwnPagesOnly

HERE = "127.0.0.1:7860"


def takes(method, host, origin=None, listens="127.0.0.1"):
    """True if the application behind the guard is reached; otherwise the request is refused with 403."""
    async def app(scope, receive, send):
        reached.append(scope)

    async def send(message):
        sent.append(message)

    reached, sent = [], []
    headers = [(b"host", host.encode())] + ([] if origin is None else [(b"origin", origin.encode())])
    scope = {"type": "http", "method": method, "headers": headers}
    asyncio.run(OwnPagesOnly(app, listens)(scope, None, send))
    assert [message.get("status") for message in sent] == ([] if reached else [403, None])
    return bool(reached)


@pytest.mark.parametrize("host, taken", [
    (HERE, True), ("localhost:7860", True), ("LOCALHOST", True), ("[::1]:7860", True),
    ("192.0.2.1:7860", False), ("evil.example:7860", False), ("127.0.0.1.evil.example", False), ("", False),
    ("[", False)])
def test_only_names_of_this_machine(host, taken):
    assert takes("GET", host) is takes("POST", host) is taken


@pytest.mark.parametrize("listens, host, taken", [
    ("192.0.2.1", "192.0.2.1:7860", True), ("192.0.2.1", HERE, True), ("192.0.2.1", "192.0.2.2", False),
    ("MyBox", "mybox:7860", True), ("0.0.0.0", "mybox:7860", True), ("::", "192.0.2.1", True)])
def test_and_those_of_the_address_that_is_listened_on(listens, host, taken):
    assert takes("POST", host, listens=listens) is taken


@pytest.mark.parametrize("origin, taken", [
    (None, True), (f"http://{HERE}", True), (f"HTTP://{HERE}", True), ("http://127.0.0.1:8000", False),
    ("http://localhost:7860", False), ("https://evil.example", False), ("null", False), ("http://[", False)])
def test_no_other_page_changes_anything(origin, taken):
    assert takes("POST", HERE, origin) is taken and takes("DELETE", HERE, origin) is taken
    assert takes("POST", HERE, origin, listens="0.0.0.0") is taken
    assert takes("GET", HERE, origin) is (origin != "http://[")


def test_what_is_no_request_is_passed_on():
    async def app(scope, receive, send):
        reached.append(scope)

    reached = []
    asyncio.run(OwnPagesOnly(app, "127.0.0.1")({"type": "lifespan"}, None, None))
    assert reached == [{"type": "lifespan"}]
