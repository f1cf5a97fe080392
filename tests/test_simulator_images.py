"""Pictures sent to the simulated deployment: which models read them, what they cost, what is refused."""

import base64
import socket
import struct
import zlib

import pytest

from tests.simulators import CHAT, OPENAI, ask, data_url, picture, simulated

pytestmark = pytest.mark.aside


@pytest.fixture(scope="module")
def vision():
    with simulated("--kind", "managed", "--model", "Phi-3-vision-128k-instruct") as server:
        yield server


def test_an_image_costs_what_phi_3_vision_was_documented_to_count(vision):
    content = picture(data_url(1900, 1069), "x" * 92)
    body = vision.client.post(CHAT, json=ask(content, max_tokens=1)).json()
    assert body["usage"]["prompt_tokens"] == 2_380


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "image/jpeg"), ("JPEG", "image/jpg"), ("PNG", "image/png")])
def test_jpeg_and_png_are_read(vision, kind, mime):
    content = picture(data_url(336, 336, kind, mime), "abcd")
    usage = vision.client.post(CHAT, json=ask(content, max_tokens=1)).json()["usage"]
    assert usage["prompt_tokens"] == 4 + 1 + (16 + 1) * 144 + 1 + (4 + 1) * 12


def test_of_two_turns_with_an_image_only_the_last_is_counted(vision):
    small, large = picture(data_url(336, 336), "abcd"), picture(data_url(1900, 1069), "abcd")
    turns = [
        {"role": "user", "content": small},
        {"role": "assistant", "content": "abcd"},
        {"role": "user", "content": large},
    ]
    body = vision.client.post(CHAT, json={"messages": turns, "max_tokens": 1}).json()
    assert body["usage"]["prompt_tokens"] == 3 * (4 + 1) + 2_353


@pytest.mark.parametrize(
    "url",
    [
        "data:image/jpeg;base64,@@@@",
        "data:image/jpeg;base64,abc",
        "data:image/jpeg;base64,\u00e4\u00e4\u00e4\u00e4",
        "data:image/jpeg;base64," + base64.b64encode(b"no image at all").decode(),
        data_url(8, 8)[:60],
        data_url(8, 8) + "@",
        data_url(8, 8, "GIF", "image/jpeg"),
        data_url(8, 8, "GIF", "image/gif"),
        "data:image/jpeg,plain",
        "file:///etc/hostname",
        "",
    ],
)
def test_what_is_no_jpeg_or_png_is_a_bad_request(vision, url):
    answer = vision.client.post(CHAT, json=ask(picture(url)))
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "bad_request")


def test_what_pillow_thinks_of_a_picture_is_not_said_to_the_operator():
    head, chunk = 33, b"acTL" + bytes(8)  # an animation of no frames; it stands behind the signature and IHDR
    still = base64.b64decode(data_url(8, 8, "PNG").partition(",")[2])
    moving = still[:head] + struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk)) + still[head:]
    url = "data:image/png;base64," + base64.b64encode(moving).decode()
    with simulated("--model", "Phi-3.5-vision-instruct") as server:
        assert server.client.post(CHAT, json=ask(picture(url), max_tokens=1)).status_code == 200
        server.process.stdin.close()
        assert server.process.stderr.read() == b""


def test_two_images_in_one_message_are_refused(vision):
    url = data_url(8, 8)
    answer = vision.client.post(CHAT, json=ask(picture(url) + picture(url)))
    assert answer.status_code == 400
    assert "one image" in answer.json()["error"]["message"]


def test_a_remote_image_is_refused_and_never_fetched(vision):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        port = elsewhere.getsockname()[1]
        answer = vision.client.post(CHAT, json=ask(picture(f"http://127.0.0.1:{port}/cat.jpg")))
        assert answer.status_code == 400
        assert "not fetched" in answer.json()["error"]["message"]
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_a_text_model_refuses_a_picture_and_names_its_part():
    with simulated() as server:
        for route in (CHAT, OPENAI):
            answer = server.client.post(route, json=ask(picture(data_url(8, 8))))
            assert (answer.status_code, answer.json()["code"]) == (422, "parameter_not_supported")
            assert answer.json()["detail"] == {"loc": ["body", "messages", 0, "content", 1], "input": "image_url"}


def test_phi_3_5_vision_reads_several_pictures_and_keeps_them_all():
    url = data_url(336, 336)
    with simulated("--model", "phi-3.5-vision-instruct") as server:
        body = server.client.post(CHAT, json=ask(picture(url, "abcd") + picture(url, "abcd"), max_tokens=1)).json()
    assert body["usage"]["prompt_tokens"] == 4 + 2 * (1 + (16 + 1) * 144 + 1 + (4 + 1) * 12)


def test_the_detail_of_a_picture_must_be_a_known_one(vision):
    for detail, status in (("low", 200), (None, 200), ("blurred", 422)):
        part = {"type": "image_url", "image_url": {"url": data_url(8, 8), "detail": detail}}
        assert vision.client.post(CHAT, json=ask([part], max_tokens=1)).status_code == status
