"""Who may ask the batch service, and what a job may ask for."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from headroom.service.admission import FORBIDDEN, PATHS
from headroom.service.refusals import Refusal
from headroom.service.settings import AllowedTarget, Caps, Settings
from headroom.service.shelf import FILES, Shelf
from loadgen.config import RunConfig
from loadgen.errors import ConfigError
from tests.services import SHORT, URL, app_on, submit

pytestmark = pytest.mark.aside

TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC = {"host": "0.0.0.0", "token": TOKEN}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return app_on(tmp_path_factory.mktemp("service") / "runs")


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """With a token, and a name."""
    return app_on(tmp_path_factory.mktemp("service") / "runs", hosts=("load.example",), **PUBLIC)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8089", 200),
        ("localhost:8089", 200),
        ("LOCALHOST", 200),
        ("[::1]:8089", 200),
        ("localhost:9999", 200),  # by a tunnel from another port
        ("evil.example", 403),  # a name that was rebound to this address
        ("evil.example:8089", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.0.2.1:8089", 403),
        ("0.0.0.0:8089", 403),
        ("user@127.0.0.1", 403),
        ("evil.example/127.0.0.1", 403),
        ("127.0.0.1#", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_the_service_is_called_by_its_own_names_only(client, host, status):
    assert client.get("/api/jobs", headers={"host": host}).status_code == status


@pytest.mark.parametrize(("host", "status"), [("load.example", 200), ("load.example:443", 200), ("other.example", 403)])
def test_further_names_are_those_it_was_given(locked, host, status):
    answer = locked.get("/api/jobs", headers={"host": host, "authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),  # no browser
        ({"origin": URL}, 201),
        ({"origin": "https://127.0.0.1:8089"}, 201),  # a proxy with TLS before it
        ({"sec-fetch-site": "same-origin"}, 201),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),  # another port is another origin
        ({"origin": "http://localhost:8089"}, 403),  # and so is another name of this host
        ({"origin": ""}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 403),
        ({"content-type": "text/plain"}, 415),  # what a form of another site can send
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": ""}, 415),
    ],
)
def test_no_page_of_another_site_can_start_load(client, headers, status):
    before = len(client.app.state.desk.jobs.all())
    body = '{"config": {"load": {"rate": 5}}}'
    answer = client.post("/api/jobs", content=body, headers={"content-type": "application/json"} | headers)
    assert answer.status_code == status
    assert len(client.app.state.desk.jobs.all()) - before == (status == 201)


@pytest.mark.parametrize("method", ["DELETE", "PUT", "OPTIONS"])
def test_no_page_of_another_site_can_change_anything(client, method):
    job = submit(client)
    answer = client.request(method, f"/api/jobs/{job}", headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert client.get(f"/api/jobs/{job}").json()["job"]["state"] == "queued"
    assert "access-control-allow-origin" not in answer.headers


def test_another_site_can_link_to_a_page_and_embed_none(client):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/healthz", headers=link).status_code == 200
    for dest in ("iframe", "image", "script", "empty"):
        mode = "navigate" if dest == "iframe" else "no-cors"
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert client.get("/healthz", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer  {TOKEN} "}, 200),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"authorization": b"Bearer \xe9\xff"}, 401),
        ({"cookie": f"headroom_session={TOKEN}"}, 401),
        ({"cookie": "headroom_session="}, 401),
        ({"x-token": TOKEN}, 401),
    ],
)
def test_with_a_token_every_request_needs_it(locked, headers, status):
    assert locked.get("/api/jobs", headers={"host": "localhost", **headers}).status_code == status
    assert locked.get("/healthz", headers={"host": "localhost", **headers}).status_code == 200
    assert TOKEN not in locked.get("/api/jobs", headers={"host": "localhost"}).text


def form(client, csrf, token, **headers):
    fields = {"csrf": csrf, "token": token}
    return client.post("/login", data=fields, headers={"host": "localhost", **headers}, follow_redirects=False)


def test_a_browser_logs_in_by_a_form_and_gets_a_session_of_its_own_site(locked):
    csrf = locked.app.state.locks.csrf
    assert form(locked, "wrong", TOKEN).status_code == 403
    assert form(locked, csrf, "wrong").status_code == 401
    assert form(locked, csrf, TOKEN, origin="http://evil.example").status_code == 403
    answer = form(locked, csrf, TOKEN)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    session = {"host": "localhost", "cookie": cookie.partition(";")[0]}
    assert locked.get("/api/jobs", headers=session).status_code == 200
    locked.cookies.clear()
    assert "Secure" in form(locked, csrf, TOKEN, origin="https://localhost").headers["set-cookie"]
    locked.cookies.clear()


def test_every_answer_forbids_what_no_page_of_ours_needs(client):
    for answer in (client.get("/healthz"), client.get("/nothing"), client.get("/", headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"host": "0.0.0.0"}, "needs a token"),
        ({"host": "::"}, "needs a token"),
        ({"host": "192.0.2.1"}, "needs a token"),
        ({"host": "load.example"}, "needs a token"),
        ({"token": "short"}, "fewer than 16"),
        ({"token": ""}, "fewer than 16"),
    ],
)
def test_a_service_that_others_can_reach_needs_a_token(tmp_path, settings, fault):
    with pytest.raises(ConfigError, match=fault):
        Settings(runs=tmp_path, **settings)
    assert TOKEN not in repr(Settings(runs=tmp_path, **PUBLIC))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    runs = outside / "runs"
    for folder in (outside / "secret", runs / "run", runs / ".hidden"):
        folder.mkdir(parents=True)
        for name in ("manifest.json", *FILES.values()):
            (folder / name).write_text("{}")
    (runs / "link").symlink_to(outside / "secret")
    (runs / "run" / "samples.parquet").unlink()
    (runs / "run" / "samples.parquet").symlink_to("/etc/passwd")
    return Shelf(runs)


TRAVERSALS = (
    *("..", ".", "", "/", "../secret", "../../etc/passwd", "..\\secret", "run/../../secret", "./run", "run/", "run/."),
    *("/etc", "//etc/passwd", "%2e%2e", "%2e%2e%2fsecret", "..%2fsecret", "..%252fsecret", "%00", "run\x00", "run\n"),
    *(
        "~",
        "~root",
        ".hidden",
        ".service",
        "link",
        "C:\\",
        "\\\\host\\share",
        "run;ls",
        "$(id)",
        "-rf",
        "--help",
        "run*",
    ),
    *("a" * 101, "\u2025/secret", "\uff0e\uff0e/secret", "..;/secret", "....//secret", "RUN", "file:///etc/passwd"),
)


@pytest.mark.parametrize("name", TRAVERSALS)
def test_a_name_leads_nowhere_but_to_a_run(shelf, client, name):
    for ask in (shelf.folder, lambda each: shelf.file(each, "summary")):
        with pytest.raises(Refusal) as refusal:
            ask(name)
        assert refusal.value.status == 404
    if name.isprintable() and name.strip("/."):
        for path in (f"/api/runs/{name}/summary", f"/api/jobs/{name}"):
            assert client.get(path).status_code in (403, 404, 405), path
    assert client.post("/api/plan", json={"runs": [name]}).status_code == 404
    assert client.post("/api/compare", json={"base": name, "new": name}).status_code == 404


def test_a_file_that_is_a_link_is_none(shelf):
    assert shelf.file("run", "summary").name == "summary.json"
    with pytest.raises(Refusal):
        shelf.file("run", "samples")


@pytest.fixture(scope="module")
def capped(tmp_path_factory):
    """It loads two deployments, one with a key of its own, and offers a folder of files."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "data").mkdir()
    (folder / "data" / "lengths.txt").write_text("10\n20\n")
    (folder / "data" / "out").symlink_to("/etc")
    for name in ("pictures", "run/parts"):
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "1.png").symlink_to(folder / "key")
    (folder / "key").write_text("a-key")
    targets = (
        f"https://a.example/x,file:{folder / 'key'}",
        *("https://b.example", "http://c.example", "https://d.example,env:AZURE_INFERENCE_CREDENTIAL"),
    )
    caps = Caps(requests=100, tokens=10_000, duration_s=60.0, queued=500)
    allowed = tuple(map(AllowedTarget.parse, targets))
    return app_on(folder / "runs", targets=allowed, data=folder / "data", caps=caps)


A, B = {"url": "https://a.example/x"}, {"url": "https://b.example"}
BAD_JOBS = {
    "a target that is not offered": {"target": {"url": "https://c.example", "allow_hosts": ["c.example"]}},
    "a loopback target that is not offered": {"target": {"url": "http://127.0.0.1:22"}},
    "the metadata service": {"target": {"url": "http://169.254.169.254/"}},
    "a second target that is not offered": {"target": [A, {"url": "https://c.example"}]},
    "a path beside the one offered": {"target": {"url": "https://a.example/y"}},
    "a user in the address": {"target": {"url": "https://u:p@a.example/x"}},
    "targets by another name": {"targets": [{"url": "https://c.example"}]},
    "targets by another name, beside": {"target": A, "targets": [{"url": "https://c.example"}]},
    "a key of the service's": {"target": {**B, "key": "env:HOME"}},
    "a file as key": {"target": {**B, "key": "file:/etc/hostname"}},
    "a key for the simulated deployment": {"target": {"url": "sim", "key": "env:HOME"}},
    "certificates": {"target": {**A, "ca_file": "/etc/passwd"}},
    "a scenario file": {"scenarios": {"/tmp/evil.py:Evil": 1}},
    "a scenario file beside": {"scenarios": {"evil.py:Evil": 1, "chat": 1}},
    "an output folder": {"output": {"dir": "/tmp/x"}},
    "a collector": {"telemetry": {"otlp": "https://c.example"}},
    "a trace outside": {"load": {"trace": "/etc/passwd"}},
    "a trace above": {"load": {"trace": "../key"}},
    "a trace by a link": {"load": {"trace": "out/passwd"}},
    "pictures by a link in their folder": {"prompts": {"images": "pictures"}},
    "a run with a link in its folder": {"load": {"trace": "run"}},
    "a trace that is not there": {"load": {"trace": "nothing.csv"}},
    "the data folder itself": {"load": {"trace": "."}},
    "prompts outside": {"prompts": {"file": "/etc/passwd"}},
    "pictures outside": {"prompts": {"images": "/etc"}},
    "lengths outside": {"prompts": {"tokens": "file:/etc/passwd"}},
    "lengths above": {"prompts": {"completion": "file:../key,column"}},
    "turns outside": {"prompts": {"turns": "file:/etc/passwd"}},
    "prices outside": {"plan": {"prices": "/etc/passwd"}},
    "a file with a null": {"load": {"trace": "a\0b"}},
    "a file of no name": {"load": {"trace": 5}},
    "a master": {"load": {"master": True, "bind": "0.0.0.0:5557"}},
    "a bind": {"load": {"bind": "0.0.0.0:5557"}},
    "too many requests": {"budget": {"requests": 101}},
    "too many requests in words": {"budget": {"requests": "101"}},
    "too many tokens": {"budget": {"tokens": 10_001}},
    "too long": {"load": {"duration": "61s"}},
    "too long by stages": {"load": {"stages": ["5/s:30s", "5/s:31s"]}},
    "a wall too far": {"budget": {"wall": "61s"}},
    "a drain without end": {"load": {"drain": "1h"}},
    "answers without end": {"timeouts": {"total": "1h"}},
    "a thousand processes": {"load": {"processes": 1_000}},
    "more arrivals than are ever sent": {"load": {"rate": "20/s", "duration": "60s"}, "budget": {"requests": 10}},
    "more arrivals by a spike": {"load": {"rate": 1, "spike": "1000/s:10s@9s"}},
    "nine targets": {"target": [{"url": "sim"}] * 9},
    "answers that nothing is reserved for": {"parameters": {"n": 2}},
    "a number of answers in words": {"parameters": {"n": "2"}},
    "longer answers than are reserved for": {"load": {"max_tokens": 5}, "parameters": {"max_completion_tokens": 6}},
    "a version with a parameter behind it": {"target": {**A, "api_version": "2024&admin=1"}},
    "a version with a line behind it": {"target": {**A, "api_version": "2024\r\nHost: evil"}},
    "a version with a newline": {"target": {**A, "api_version": "2024\n"}},
    "a version beyond ASCII": {"target": {**A, "api_version": "\u00e9"}},
    "no version": {"target": {**A, "api_version": ""}},
}


@pytest.mark.parametrize("config", BAD_JOBS.values(), ids=BAD_JOBS)
def test_a_job_asks_only_for_what_the_service_offers(capped, config):
    answer = capped.post("/api/jobs", json={"config": config})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["where"] == "config"
    assert "a-key" not in answer.text and "root:" not in answer.text


def admitted(client, config):
    return client.app.state.desk.jobs.config_of(submit(client, config))


def test_a_job_gets_the_keys_hosts_and_bounds_of_the_service(capped):
    config = admitted(capped, {"target": [{**A, "allow_hosts": ["c.example"]}, B], "load": {"duration": "50s"}})
    a, b = config["target"]
    assert a["key"].startswith("file:") and "key" not in b
    assert (a["allow_hosts"], b["allow_hosts"]) == (["a.example"], ["b.example"])
    assert config["budget"] == {"requests": 100, "tokens": 10_000, "wall": 60.0}
    config = admitted(capped, {"budget": {"requests": 5}, "load": {"duration": "50s"}})
    assert config["budget"] == {"requests": 5, "tokens": 10_000, "wall": 60.0}
    assert config["target"] == {"url": "sim"}


def test_a_job_may_name_files_of_the_data_folder(capped):
    data = capped.app.state.desk.settings.data.resolve()
    config = admitted(capped, {"prompts": {"tokens": "file:lengths.txt"}, "load": {"duration": "50s"}})
    assert config["prompts"]["tokens"] == f"file:{data / 'lengths.txt'}"


def test_a_file_is_read_anew_for_each_job(capped):
    file = capped.app.state.desk.settings.data / "prompts.jsonl"
    job = {"config": {"prompts": {"file": file.name}, "load": {"duration": "50s"}}}
    for text, status in (('{"prompt": "a"}', 201), ("{}", 422), ('{"prompt": "b"}', 201)):
        file.write_text(text)
        assert capped.post("/api/jobs", json=job).status_code == status


def test_the_key_of_one_deployment_is_not_looked_at_for_another(capped, monkeypatch):
    """It would be refused, because the key would go unencrypted."""
    monkeypatch.setenv("AZURE_INFERENCE_CREDENTIAL", "x")
    assert admitted(capped, {"target": {"url": "http://c.example"}, "load": {"duration": "50s"}})["target"]


def test_without_a_data_folder_no_file_can_be_named(client):
    answer = client.post("/api/jobs", json={"config": {"prompts": {"tokens": "file:lengths.txt"}}})
    assert answer.status_code == 422 and "--data" in answer.text


def test_the_endpoint_in_the_services_own_environment_is_no_jobs_target(client, monkeypatch):
    monkeypatch.setenv("AZURE_INFERENCE_ENDPOINT", "https://a.example")
    assert admitted(client, SHORT)["target"] == {"url": "sim"}


def places(model, prefix=()):
    """Every key that holds a path."""
    for name, field in model.model_fields.items():
        kinds = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
        for kind in kinds:
            if issubclass(kind, BaseModel):
                yield from places(kind, (*prefix, name))
            elif issubclass(kind, Path):
                yield (*prefix, name)


def test_every_key_that_names_a_file_is_one_that_the_service_guards():
    """A key that comes to the configuration comes to the service, too."""
    guarded = {*PATHS, *FORBIDDEN, ("targets", "ca_file")}
    assert set(places(RunConfig)) <= guarded
    assert ("load", "trace") in set(places(RunConfig))
