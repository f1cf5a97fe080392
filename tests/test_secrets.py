"""The key of a deployment is written nowhere: not in a run folder, not on a screen, whoever repeats it."""

import base64
import json
import urllib.parse

import pytest

from loadgen.samples import Run
from tests.commands import PLENTY, deployment, headroom, told
from tests.servers import Server, always, response, stream

CANARY = "canary-7f3a9c1e5b2d4860canary"
CANARY_FORMS = [
    CANARY,
    base64.b64encode(CANARY.encode()).decode(),
    urllib.parse.quote(f"Bearer {CANARY}"),
    CANARY[:12],
    CANARY[-12:],
]


async def echo_the_key(call, writer):
    body = json.dumps(
        {"error": {"code": f"bad {call.header('api-key')}", "message": f"{call.header('authorization')} is wrong"}}
    )
    status = "401 Unauthorized" if call.number % 2 else "400 Bad Request"
    writer.write(response(body.encode(), status, x_ms_error_code=call.header("api-key")))


async def cut_short(call, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + (call.header("api-key") or "").encode())
    await writer.drain()
    writer.close()


async def error_in_stream(call, writer):
    await stream({"error": {"code": call.header("api-key"), "message": call.header("authorization")}})(call, writer)


async def odd_type(call, writer):
    writer.write(response(b"x", content_type=call.header("api-key")))


async def in_turn(call, writer):
    """A server's ways to fail, each in its turn, so that one run meets them all many times."""
    await ANSWERS[call.number % len(ANSWERS)](call, writer)


ANSWERS = (
    echo_the_key,
    cut_short,
    error_in_stream,
    odd_type,
    always(response(b"{}", "500 Oops")),
    always(response(b"{}", "429 Too Many", retry_after="0")),
    always(b""),  # until the client's patience ends
    always(b"garbage\r\n\r\n"),
    always(response(b"", "302 Found", location="http://127.0.0.1:1/")),
    deployment,
    deployment,  # an odd number of ways, so that each meets streams and others
)
LEAKY = """
from loadgen.requests import chat
from loadgen.users import DeploymentUser

class Leaky(DeploymentUser):
    def request(self, arrival):
        if arrival.seq > 63:
            credential = self.player.lane.credential
            raise ValueError(credential, vars(credential).keys(), credential.value())
        return chat(self.scenario, [], max_tokens=1)
"""


def test_the_key_is_in_no_file_and_on_no_screen_however_a_request_fails(tmp_path):
    (tmp_path / "timeouts.toml").write_text("[timeouts]\nfirst_byte = 0.3\n")
    (tmp_path / "leaky.py").write_text(LEAKY)
    mix = ["--scenario", "leaky.py:Leaky=1", "--scenario", "chat=2", "--scenario", "streaming=2"]
    load = [
        *mix,
        "--no-auto-stop",
        "--throttle",
        "feedback",
        "--rate",
        "90/s",
        "--duration",
        "2s",
        "--warmup",
        "0s",
        *PLENTY,
    ]
    with Server(in_turn) as server:
        server.info = response(json.dumps({"model_name": CANARY, "model_type": "chat-completions"}).encode())
        target = ["--target", server.url, "--out", "run"]
        done = headroom(tmp_path, "run", "timeouts.toml", *target, *load, AZURE_INFERENCE_CREDENTIAL=CANARY)
        assert any(call.header("authorization") == f"Bearer {CANARY}" for call in server.calls), done.stderr
    assert_no_canary(tmp_path, done)
    samples = Run.open(tmp_path / "run").samples.collect()
    assert not any(form in samples.write_csv() for form in CANARY_FORMS)
    outcomes = {"ok", "throttled", "rejected", "server_error", "timeout", "network", "broken_stream", "dropped"}
    assert set(samples["outcome"]) >= outcomes, samples.group_by("outcome", "error").len().rows()
    assert "scenario_failed" in set(samples["error"])


NO_CHAT_MODEL = json.dumps({"model_name": CANARY, "model_type": f"Bearer {CANARY}"})


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, CANARY) for status in ("401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Oops", "200 OK")),
        ("200 OK", NO_CHAT_MODEL),
    ],
)
def test_the_key_is_not_in_what_the_probe_says(tmp_path, status, body):
    with Server(deployment) as server:
        server.info = response(body.encode(), status, location=f"http://127.0.0.1:1/{CANARY}")
        done = told(tmp_path, "run", "--target", server.url, AZUREAI_ENDPOINT_KEY=CANARY)
        assert done.returncode == 2 and not server.calls
    assert_no_canary(tmp_path, done)


@pytest.mark.parametrize(
    "arguments",
    [["--key", CANARY], ["--target", f"http://u:{CANARY}@localhost"], ["--target", f"http://localhost/?k={CANARY}"]],
)
def test_a_key_given_in_the_wrong_place_is_not_repeated(tmp_path, arguments):
    done = told(tmp_path, "run", *arguments)
    assert done.returncode == 2
    assert_no_canary(tmp_path, done)


def assert_no_canary(folder, done):
    texts = {"stdout": done.stdout, "stderr": done.stderr}
    for path in folder.rglob("*"):
        if path.is_file():
            texts[path.name] = path.read_bytes().decode("latin-1")
    for name, text in texts.items():
        assert not any(form in text for form in CANARY_FORMS), name
