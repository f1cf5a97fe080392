"""The rails, the credential and the probe: what is said, and what is never sent."""

import asyncio
import socket
import ssl
import time

import pytest
import trustme

from loadgen.config import TargetConfig
from loadgen.errors import ConfigError, TargetError, TargetRefused
from loadgen.probe import probe
from loadgen.requests import Route
from loadgen.target import Credential, address_of, check_allowed, check_encrypted, credential_of
from tests.servers import Server, always, response
from tests.simulators import simulated

CANARY = "canary-0123456789abcdef0123456789"


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("http://127.0.0.1:8181", "http://127.0.0.1:8181", "/chat/completions?api-version=2024-05-01-preview"),
        ("https://x.eastus2.inference.ai.azure.com/", "https://x.eastus2.inference.ai.azure.com:443", "/chat/completions?api-version=2024-05-01-preview"),
        ("https://r.services.ai.azure.com/models", "https://r.services.ai.azure.com:443", "/models/chat/completions?api-version=2024-05-01-preview"),
        ("http://[::1]:9000", "http://[::1]:9000", "/chat/completions?api-version=2024-05-01-preview"),
    ],
)  # fmt: skip
def test_where_requests_go_in_the_azure_dialect(url, origin, path):
    address = address_of(url)
    assert (address.origin, address.path_of(Route.CHAT, TargetConfig(url=url))) == (origin, path)


@pytest.mark.parametrize("base", ["http://h", "http://h/v1", "http://h/openai/v1/"])
def test_the_openai_dialect_adds_v1_where_it_is_missing(base):
    path = address_of(base).path_of(Route.CHAT, TargetConfig(url=base, dialect="openai"))
    assert path.endswith("/v1/chat/completions") and path.count("v1") == 1


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8181", "ftp://x", "http://", "http://h:99999", "http://h:0", "http://h/a b"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="target"):
        address_of(url)


@pytest.mark.parametrize("url", [f"http://user:{CANARY}@h", f"http://h/?key={CANARY}", f"http://h#{CANARY}"])
def test_a_secret_in_the_url_is_refused_and_never_repeated(url):
    with pytest.raises(ConfigError) as caught:
        address_of(url)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]"])
def test_loopback_is_free(host):
    check_allowed(address_of(f"http://{host}:80"), ())


@pytest.mark.parametrize(
    "host",
    ["example.com", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "localhost.example.com", "127.0.0.1.nip.io", "2130706433", "[::ffff:8.8.8.8]", "[::]"],
)  # fmt: skip
def test_any_other_host_must_be_named(host):
    address = address_of(f"http://{host}/")
    with pytest.raises(TargetRefused, match="--yes-target") as caught:
        check_allowed(address, ("other.example.com",))
    assert caught.value.exit_code == 112
    check_allowed(address, (host.strip("[]"),))


def test_the_credential_comes_from_where_the_config_says(tmp_path):
    (tmp_path / "key").write_text(f"{CANARY}\n")
    from_file = credential_of(TargetConfig(key=f"file:{tmp_path / 'key'}"), {})
    from_variable = credential_of(
        TargetConfig(key="env:MY_KEY"), {"MY_KEY": CANARY, "AZURE_INFERENCE_CREDENTIAL": "other"}
    )
    by_default = [
        credential_of(TargetConfig(), {name: CANARY}) for name in ("AZURE_INFERENCE_CREDENTIAL", "AZUREAI_ENDPOINT_KEY")
    ]
    for credential in (from_file, from_variable, *by_default):
        assert credential.value() == CANARY
        assert CANARY not in repr(credential)
        assert credential.redact(f"wrong key {CANARY}!") == "wrong key ***!"
    assert credential_of(TargetConfig(), {}) is None


@pytest.mark.parametrize(
    ("key", "environment", "complaint"),
    [
        ("env:NOT_SET", {}, "environment variable NOT_SET, which is not set"),
        ("file:/nowhere/key", {}, "file /nowhere/key, which cannot be read: No such file"),
        ("env:MY_KEY", {"MY_KEY": f"{CANARY}\r\nx-evil: 1"}, "env:MY_KEY holds blanks"),
        ("env:MY_KEY", {"MY_KEY": f"{CANARY}é"}, "env:MY_KEY holds blanks or characters"),
    ],
)
def test_a_credential_that_cannot_be_had_is_named_by_its_reference(key, environment, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        credential_of(TargetConfig(key=key), environment)
    assert CANARY not in str(caught.value)


def test_an_entra_token_is_asked_for_in_the_services_scope_and_renewed_before_it_ends(monkeypatch):
    import azure.identity
    from azure.core.credentials import AccessToken

    asked = []

    class Fake:
        def get_token(self, *scopes):
            asked.append(scopes)
            return AccessToken(f"{CANARY}-{len(asked)}", 0 if len(asked) == 1 else 1 << 40)

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Fake)
    credential = credential_of(TargetConfig(key="entra", kind="managed"), {})
    assert [credential.value(), credential.value()] == [f"{CANARY}-2"] * 2
    assert asked == [("https://ml.azure.com/.default",)] * 2
    assert credential.headers("azure") == {"Authorization": f"Bearer {CANARY}-2"}


def test_an_entra_failure_is_one_sentence(monkeypatch):
    import azure.identity

    class Fake:
        def get_token(self, *_):
            raise RuntimeError(f"long trace with {CANARY}")

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Fake)
    with pytest.raises(ConfigError, match="Entra ID gave no token") as caught:
        credential_of(TargetConfig(key="entra", kind="managed"), {})
    assert CANARY not in str(caught.value)


def test_a_key_goes_to_another_machine_by_https_only():
    credential = Credential(lambda: (CANARY, float("inf")))
    with pytest.raises(TargetRefused, match="unencrypted: use https"):
        check_encrypted(address_of("http://example.com"), credential)
    with pytest.raises(TargetRefused) as caught:
        check_encrypted(address_of("http://10.0.0.7:11434/v1"), credential_of(TargetConfig(key="env:K"), {"K": CANARY}))
    for way in ("from the environment variable K", "ca_file", "ssh -N -L 8000:10.0.0.7:11434 10.0.0.7", "8000/v1;"):
        assert way in str(caught.value)
    assert CANARY not in str(caught.value)
    check_encrypted(address_of("https://example.com"), credential)
    check_encrypted(address_of("http://example.com"), None)
    check_encrypted(address_of("http://127.0.0.1"), credential)


def ask(server, **target):
    url = server if isinstance(server, str) else server.url
    config = TargetConfig(url=url, **target)
    return probe(config, address_of(url), Credential(lambda: (CANARY, float("inf"))))


def test_the_probe_learns_the_model_and_carries_the_key():
    with Server(always(b"")) as server:
        assert ask(server) == {
            "model_name": "Phi-3-mini-4k-Instruct",
            "model_type": "chat-completions",
            "model_provider_name": "Microsoft",
        }
        server.info = response(b'{"data": [{"id": "phi-3"}, {"id": "other"}]}')
        assert ask(server, dialect="openai")["model_name"] == "phi-3"
    assert not server.calls  # nothing but the probe was sent


def test_the_probe_learns_that_the_deployment_is_simulated_and_how():
    with simulated("--time-scale", "20") as serverless, simulated("--kind", "managed") as managed:
        for server, kind, scale in ((serverless, "serverless", 20), (managed, "managed", 1)):
            for dialect in ("azure", "openai"):
                target = TargetConfig(url=server.url, dialect=dialect)
                about = probe(target, address_of(server.url), None)
                assert (about["simulated"], about["simulated_kind"], about["time_scale"]) == (True, kind, scale)


def test_a_proxy_of_the_environment_sees_nothing(monkeypatch):
    with Server(always(b"")) as server, Server(always(b"")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        ask(server)
        assert (server.connections, proxy.connections) == (1, 0)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (response(b"{}", "401 Unauthorized"), "answered 401: the key was refused"),
        (response(b"{}", "403 Forbidden"), "answered 403: the key was refused"),
        (
            response(b"{}", "404 Not Found"),
            r"/info is not there \(404\): check the URL's path, or try --dialect openai",
        ),
        (response(b"{}", "500 Oops"), "answered 500 to /info"),
        (response(b"", "302 Found", Location="http://127.0.0.1:1/"), "answered 302 to /info"),
        (response(b"<html>"), "its answer to the probe is not JSON"),
        (response(b"[" * 60_000), "its answer to the probe is not JSON"),
        (response(b" " * (1 << 20)), "its answer to the probe is not JSON"),
        (response(b"[1]"), "/info does not name a model"),
        (
            response(b'{"model_name": "draw", "model_type": "image-generation"}'),
            "serves draw, a model of type image-generation: neither for chat nor for embeddings",
        ),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "does not speak HTTP"),
    ],
)
def test_a_wrong_target_is_one_clear_sentence(answer, complaint):
    with Server(always(b"")) as server:
        server.info = answer
        with pytest.raises(TargetError, match=complaint) as caught:
            ask(server)
    assert len(str(caught.value).splitlines()) == 1
    assert CANARY not in str(caught.value)


def test_a_refused_key_is_told_by_where_it_was_read_from(tmp_path):
    (tmp_path / "key").write_text(CANARY)
    with Server(always(b"")) as server:
        server.info = response(b"{}", "401 Unauthorized")
        for key, environment, source in (
            (None, {"AZUREAI_ENDPOINT_KEY": CANARY}, "environment variable AZUREAI_ENDPOINT_KEY"),
            ("env:MY_KEY", {"MY_KEY": CANARY}, "environment variable MY_KEY"),
            (f"file:{tmp_path / 'key'}", {}, f"file {tmp_path / 'key'}"),
        ):
            target = TargetConfig(url=server.url, key=key)
            with pytest.raises(TargetError, match=f"answered 401: the key from the {source} was refused; set --key"):
                probe(target, address_of(server.url), credential_of(target, environment))


def test_what_a_server_calls_itself_cannot_command_a_terminal():
    with Server(always(b"")) as server:
        server.info = response(b'{"model_name": "phi\\u001b[31m\\r\\n\\u0007", "model_type": "completion"}')
        assert ask(server)["model_name"] == "phi[31m"


def test_a_probe_that_is_answered_byte_by_byte_ends_in_time(monkeypatch):
    monkeypatch.setattr("loadgen.probe.PROBE_TIMEOUT_S", 0.5)

    class Dripping(Server):
        async def _serve(self, reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(40):
                writer.write(b" ")
                await asyncio.sleep(0.1)

    with Dripping(always(b"")) as server:
        began = time.monotonic()
        with pytest.raises(TargetError, match="did not answer within"):
            ask(server)
    assert time.monotonic() - began < 3


def test_an_unreachable_target_says_why():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(TargetError, match="cannot reach .*: nothing listens there"):
            ask(f"http://127.0.0.1:{held.getsockname()[1]}")


def test_an_untrusted_certificate_says_so_and_a_bad_ca_file_too(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(context)
    with Server(always(b""), tls=context) as server:
        with pytest.raises(TargetError, match="certificate is not trusted"):
            ask(server)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        assert ask(server, ca_file=tmp_path / "ca.pem")["model_type"] == "chat-completions"
        (tmp_path / "ca.pem").write_text("no certificate")
        with pytest.raises(ConfigError, match="ca_file: .* holds no certificates"):
            ask(server, ca_file=tmp_path / "ca.pem")
