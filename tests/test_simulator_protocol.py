"""HTTP at its edges, byte by byte: offers to upgrade, heads that are too large."""

import json
import socket
from contextlib import contextmanager

import pytest

from tests.simulators import CHAT, PATIENCE_S, ask, pinned, simulated

pytestmark = pytest.mark.aside

GOOD = json.dumps(ask()).encode()
UPGRADES = {
    "as curl --http2 sends it": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "to a web socket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "to what nobody knows, twice": b"Upgrade: x\r\nConnection: upgrade\r\nupgrade: y\r\n",
}


@pytest.fixture(scope="module")
def fast():
    with simulated() as server:
        yield server


@contextmanager
def connected(server):
    """(the socket, a file of what comes from it)."""
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with socket.create_connection(address, PATIENCE_S) as connection, connection.makefile("rb") as received:
        yield connection, received


def answer_in(received):
    """(status, headers, body) of the next answer; http.client would read on into the one behind it."""
    status = int(received.readline().split()[1])
    headers = {}
    while (line := received.readline().decode().strip()) != "":
        name, _, value = line.partition(": ")
        headers[name] = value
    return status, headers, received.read(int(headers["content-length"]))


def chat(headers=b"", tokens=3):
    head = f"POST {CHAT}?api-version=2024-05-01-preview HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n"
    length = "".join(f"{name}: {value}\r\n" for name, value in pinned(tokens).items())
    return head.encode() + length.encode() + headers + b"\r\n" + GOOD


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("offer", UPGRADES.values(), ids=UPGRADES)
def test_an_offer_to_upgrade_is_ignored_and_the_request_answered(fast, offer, step):
    raw = chat(offer) + chat(tokens=5)
    with connected(fast) as (connection, received):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(raw), step):
            connection.sendall(raw[at : at + step])
        for tokens in (3, 5):
            status, headers, body = answer_in(received)
            assert (status, json.loads(body)["usage"]["completion_tokens"]) == (200, tokens)
            assert "upgrade" not in headers


def test_of_many_offers_at_once_each_is_ignored(fast):
    get = b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with connected(fast) as (connection, received):
        connection.sendall(get * 1_500)
        for _ in range(1_500):
            assert answer_in(received)[0] == 200


def test_a_chunked_body_behind_an_offer_is_read(fast):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()
    with connected(fast) as (connection, received):
        connection.sendall(head + UPGRADES["to a web socket"] + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD))
        assert answer_in(received)[0] == 200


def test_a_tunnel_is_not_opened(fast):
    with connected(fast) as (connection, received):
        connection.sendall(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer_in(received)[0] == 400


ENDLESS = {  # what never becomes a request, begun
    "headers": b"GET /info HTTP/1.1\r\n" + b"some: thing\r\n" * 100,
    "one header's value": b"GET /info HTTP/1.1\r\nsome: ",
    "one header's name": b"GET /info HTTP/1.1\r\nsome",
    "the target": b"GET /",
    "nothing": b"\r\n",
}
REPEATED = {"headers": b"some: thing\r\n", "nothing": b"\r\n"}


def refused_headers(received):
    status, headers, body = answer_in(received)
    assert (status, headers["content-type"], headers["connection"]) == (431, "application/json", "close")
    assert json.loads(body).keys() == {"error", "message", "status"}
    assert headers["x-ms-error-code"] == json.loads(body)["error"]
    assert headers["x-request-id"]
    return True


@pytest.mark.parametrize("what", ENDLESS)
def test_headers_that_do_not_end_are_refused_and_the_connection_closed(fast, what):
    piece = REPEATED.get(what, b"a") * 1_000
    with connected(fast) as (connection, _):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(ENDLESS[what])
        with pytest.raises(ConnectionError):
            for _ in range(50_000):  # 50 MB at least, were it not refused
                connection.sendall(piece)
    assert fast.client.get("/info").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"some: " + b"a" * 60_000 + b"\r\n", 200),
        (b"some: thing\r\n" * 4_500, 200),
        (b"some: " + b"a" * 70_000 + b"\r\n", 431),
        (b"some: thing\r\n" * 5_500, 431),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\n" + b"some: thing\r\n" * 5_500, 431),
    ],
)
def test_a_request_has_64_kib_of_headers(fast, headers, status):
    with connected(fast) as (connection, received):
        connection.sendall(chat(headers))
        assert refused_headers(received) if status == 431 else answer_in(received)[0] == status


def test_the_limit_is_of_one_request_and_not_of_its_connection(fast):
    with connected(fast) as (connection, received):
        for _ in range(4):
            connection.sendall(chat(b"some: thing\r\n" * 3_000))
            assert answer_in(received)[0] == 200


def test_trailers_without_end_are_not_kept(fast):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".encode()
    with connected(fast) as (connection, _):
        connection.sendall(head)
        with pytest.raises(ConnectionError):
            for _ in range(4_000):
                connection.sendall(REPEATED["headers"] * 1_000)
