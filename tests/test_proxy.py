"""The proxy of the environment: which one, for which targets, and what passes through it."""

import asyncio
import ssl
import time

import gevent
import pytest
import trustme

from loadgen.config import TargetConfig, TimeoutConfig
from loadgen.connection import Connection
from loadgen.endpoint import Endpoint
from loadgen.errors import ConfigError, TargetError
from loadgen.probe import probe
from loadgen.proxy import Proxy, proxy_of
from loadgen.requests import chat
from loadgen.samples import Sample
from loadgen.target import address_of
from tests.servers import Server, always, response

PLAIN = chat("chat", [{"role": "user", "content": "hello"}], max_tokens=20)
MODEL = "https://phi.example.com"


@pytest.mark.parametrize(
    ("url", "variables", "origin"),
    [
        (MODEL, {}, None),
        (MODEL, {"HTTPS_PROXY": "http://proxy:3128"}, "proxy:3128"),
        (MODEL, {"https_proxy": "proxy:3128"}, "proxy:3128"),
        (MODEL, {"https_proxy": "http://small:1", "HTTPS_PROXY": "http://large:2"}, "small:1"),
        (MODEL, {"HTTP_PROXY": "http://proxy:3128"}, None),
        (MODEL, {"ALL_PROXY": "http://proxy"}, "proxy:80"),
        (MODEL, {"HTTPS_PROXY": "  "}, None),
        ("http://phi.example.com", {"HTTP_PROXY": "http://[::1]:3128"}, "[::1]:3128"),
        ("http://127.0.0.1:8181", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("http://localhost:8181", {"ALL_PROXY": "http://proxy:3128"}, None),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other.com, example.com"}, None),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example.com"}, None),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample.com"}, "p:1"),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "phi.example.com:443"}, None),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "phi.example.com:8443"}, "p:1"),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "no_proxy": "", "NO_PROXY": "phi.example.com"}, None),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ","}, "p:1"),
        ("https://10.1.2.3", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://11.1.2.3", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "p:1"),
        ("https://[fd00::5]", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "[fd00::5]:443"}, None),
        ("https://[fd00::5]", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "[fd00::5]:8443"}, "p:1"),
        (MODEL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com."}, None),
        ("https://[fd00::5]", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "[fd00::5]"}, None),
    ],
)
def test_the_proxy_is_the_one_that_the_environment_names_for_the_target(url, variables, origin):
    proxy = proxy_of(address_of(url), variables)
    assert (proxy and proxy.origin) == origin


@pytest.mark.parametrize(
    "value",
    [
        "socks5://proxy:1080",
        "https://proxy",
        "http://",
        "http://proxy:none",
        "http://[::1",
        "http://proxy:0",
        "http://8842#tail@proxy",
        "http://8842/x@proxy",
    ],
)
def test_a_proxy_that_cannot_be_used_is_an_error_that_names_the_variable_and_no_secret(value):
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY names no proxy.*NO_PROXY") as error:
        proxy_of(address_of(MODEL), {"HTTPS_PROXY": value.replace("//", "//user:hush-hush@")})
    assert "hush" not in str(error.value)


def test_the_password_of_a_proxy_is_sent_and_never_shown():
    proxy = proxy_of(address_of(MODEL), {"HTTPS_PROXY": "http://us%40er:hush-hush@proxy:3128"})
    assert proxy.headers() == {"Proxy-Authorization": "Basic dXNAZXI6aHVzaC1odXNo"}
    assert "hush" not in repr(proxy)
    assert "dXNAZXI6" not in repr(proxy)


class Tunnels:
    """A proxy on loopback that opens every tunnel to one server, whatever the name, or refuses with a status."""

    def __init__(self, port, refusal=None):
        self.port_behind, self.refusal, self.asked = port, refusal, []

    async def serve(self, reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(request)
        if self.refusal is not None:
            writer.write(f"HTTP/1.1 {self.refusal}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", self.port_behind)
        if request.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            behind.write(request)
        await asyncio.gather(pump(reader, behind), pump(behind_reader, writer), return_exceptions=True)


async def pump(reader, writer):
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


class Through(Server):
    """A proxy in a server's place."""

    def __init__(self, tunnels):
        super().__init__(always(b""))
        self.tunnels = tunnels

    async def _serve(self, reader, writer):
        await self.tunnels.serve(reader, writer)


def send(url, proxy, ca_file=None, times=1):
    endpoint = Endpoint(
        address_of(url), TargetConfig(url=url, ca_file=ca_file), TimeoutConfig(), None, time.monotonic_ns(), proxy
    )
    connection = Connection(endpoint)
    samples = [Sample(seq=number, scenario="s", target="t", due_ns=0) for number in range(times)]
    with gevent.Timeout(20):
        for sample in samples:
            connection.attempt(PLAIN, sample, f"run-{sample.seq}-0")
    return samples


def secured(tmp_path):
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("phi.example.com").configure_cert(context)
    return ca_file, context


def test_https_goes_through_a_tunnel_that_ends_at_the_target_and_the_proxy_sees_no_request(tmp_path):
    ca_file, context = secured(tmp_path)
    with Server(always(response()), tls=context) as server, Through(Tunnels(server.port)) as through:
        proxy = Proxy("127.0.0.1", through.port, "Basic eDp5")
        samples = send(MODEL, proxy, ca_file, times=2)
        info = probe(TargetConfig(url=MODEL, ca_file=ca_file), address_of(MODEL), None, proxy)
    assert [sample.outcome for sample in samples] == ["ok", "ok"]
    assert samples[0].connect_ns < samples[0].connected_ns < samples[0].secured_ns < samples[0].sent_ns
    assert len(server.calls) == 2
    assert info["model_type"] == "chat-completions"
    load, probing = through.tunnels.asked
    assert load.startswith(b"CONNECT phi.example.com:443 HTTP/1.1\r\nHost: phi.example.com:443\r\n")
    for asked in (load, probing):
        assert b"proxy-authorization: basic edp5" in asked.lower()
    assert server.calls[0].header("proxy-authorization") is None


def test_http_goes_to_the_proxy_with_the_whole_address():
    with Server(always(response())) as server, Through(Tunnels(server.port)) as through:
        (sample,) = send("http://phi.example.com", Proxy("127.0.0.1", through.port, "Basic eDp5"))
    assert sample.outcome == "ok"
    asked = through.tunnels.asked[0]
    assert asked.startswith(b"POST http://phi.example.com/chat/completions?api-version=")
    assert b"\r\nProxy-Authorization: Basic eDp5\r\n" in asked


@pytest.mark.parametrize("url", [MODEL, "http://phi.example.com"])
def test_a_proxy_that_refuses_is_a_failure_of_the_network_and_not_of_the_deployment(url):
    with Through(Tunnels(0, refusal="407 Proxy Authentication Required")) as through:
        proxy = Proxy("127.0.0.1", through.port)
        (sample,) = send(url, proxy)
        with pytest.raises(TargetError, match="407"):
            probe(TargetConfig(url=url), address_of(url), None, proxy)
    assert (sample.outcome, sample.error) == ("network", "proxy_407")


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"", "proxy_no_answer"), (b"SSH-2.0-x\r\n\r\n", "proxy_no_answer"), (b"x" * 20_000, "proxy_no_answer")],
)
def test_a_proxy_that_speaks_no_http_is_named(answer, error):
    class Odd(Server):
        async def _serve(self, reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

    with Odd(always(b"")) as odd:
        (sample,) = send(MODEL, Proxy("127.0.0.1", odd.port))
    assert (sample.outcome, sample.error, sample.sent_ns) == ("network", error, None)
