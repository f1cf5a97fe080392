"""The API of the batch service: every answer is as its document says, and what it refuses it says as the commands do."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from pydantic import TypeAdapter

from headroom.service import openapi
from headroom.service.api import ENDPOINTS
from headroom.service.documents import CompareAnswer, PlanAnswer
from headroom.service.jobs import State
from loadgen.config import RunConfig
from tests.commands import told
from tests.runs import synthetic_run
from tests.services import SHORT, app_on, submit

pytestmark = pytest.mark.aside

OUTPUT = {"output": {"report": False}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that have ended, the first with a report of a kind."""
    from headroom import planning

    folder = tmp_path_factory.mktemp("service") / "runs"
    folder.mkdir()
    for name in ("base", "new"):
        run = synthetic_run(folder, 120, name=name, **OUTPUT)
        planning.write(run.folder, RunConfig.model_validate(run.manifest.config))
    (folder / "base" / "report.html").write_text("<!doctype html><script>alert(1)</script>")
    (folder / "no run").mkdir()
    (folder / "file").write_text("")
    return folder


@pytest.fixture
def client(runs):
    client = app_on(runs)
    yield client
    for job in client.app.state.desk.jobs.all(states=[State.QUEUED]):
        client.app.state.desk.cancel(job.id)


def refusal(answer):
    return answer.status_code, answer.json()["error"]["where"], answer.json()["error"]["message"]


def test_every_answer_is_as_the_openapi_document_says(client):
    """Each endpoint is asked once; its answer is held against the model that the document names."""
    job = submit(client, SHORT, name="a", tags=["x"])
    schedule = client.post("/api/jobs", json={"config": SHORT, "schedule": "0 2 * * *"}).json()["schedule"]["id"]
    client.app.state.desk.jobs.start(submit(client))
    places = {"/api/jobs/{id}": job, "/api/schedules/{id}": schedule}
    bodies = {
        ("POST", "/api/jobs"): {"config": SHORT},
        ("PUT", "/api/runs/{id}/tags"): {"tags": ["x", "y"]},
    }
    elsewhere = ("/api/jobs/{id}/events", "/api/jobs/{id}/plan", "/api/plan", "/api/compare")  # in tests of their own
    for each in ENDPOINTS:
        if each.path in elsewhere:
            continue
        url = each.path.replace("{id}", places.get(each.path, "base"))
        body = bodies.get((each.method, each.path))
        answer = client.request(each.method, url, **({} if body is None else {"json": body}))
        assert answer.status_code == each.status, (each, answer.text)
        if isinstance(each.gives, type):
            TypeAdapter(each.gives).validate_json(answer.content, strict=False)
        elif each.gives:
            assert answer.headers["content-type"].partition(";")[0] == each.gives, each


def test_every_route_is_in_the_openapi_document(client):
    document = client.get("/openapi.json").json()
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    served = {
        (method, route.path)
        for route in client.app.routes
        for method in route.methods - {"HEAD"}
        if route.path.startswith(("/api", "/metrics", "/healthz", "/openapi"))
    }
    assert documented == served
    assert "Plan" in json.dumps(document["components"]["schemas"]["PlanRequest"]["title"])
    text = json.dumps(document)
    assert all(f'"{name}"' in text for name in document["components"]["schemas"])


def test_every_status_that_is_refused_with_is_in_the_openapi_document(client):
    files = Path(openapi.__file__).parent.glob("*.py")
    used = {code for file in files for code in re.findall(r"Refusal\(\s*(\d+)", file.read_text())}
    assert {"404", "409", "413", "422"} <= used <= set(openapi.ERRORS)


CONFIGS = {  # config -> flags that make `headroom run` refuse the same, in the same words
    "a key that is not": "[load]\nrat = 5",
    "a rate that is none": '[load]\nrate = "5 per day"',
    "a section that is not": "[lod]\nrate = 5",
    "two shapes": "[load]\nrate = 5\nusers = 3",
    "an objective that is none": 'slo = ["ttft.p95<fast"]',
    "a scenario that is not": "[scenarios]\nchatt = 1",
    "no TOML": "[load\n",
    "a request that never fits": "[load]\nmax_tokens = 300_000",
    "a warm-up without end": '[load]\nduration = "5s"\nwarmup = "5s"',
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_job_is_refused_in_the_words_of_the_command_line(client, tmp_path, config):
    (tmp_path / "loadtest.toml").write_text(config)
    by_hand = told(tmp_path, "run", "loadtest.toml")
    assert by_hand.returncode == 2
    status, where, message = refusal(client.post("/api/jobs", json={"config": config}))
    assert (status, where) == (422, "config")
    assert message == "\n".join(line.removeprefix("headroom: ") for line in by_hand.stderr.strip().splitlines())


def nested(depth):
    return {} if depth == 0 else {"a": nested(depth - 1)}


@pytest.mark.parametrize(
    ("job", "status", "where"),
    [
        ({"kind": "sweep"}, 422, "kind"),
        ({"kind": ["loadtest"]}, 422, "kind"),
        ({"name": "x" * 101}, 422, "name"),
        ({"name": "two\nlines"}, 422, "name"),
        ({"name": "\u202e"}, 422, "name"),
        ({"name": 5}, 422, "name"),
        ({"tags": ["a"] * 21}, 422, "tags"),
        ({"tags": [5]}, 422, "tags"),
        ({"tags": ["x" * 41]}, 422, "tags"),
        ({"tags": ["a\x00b"]}, 422, "tags"),
        ({"out": "x"}, 422, "out"),
        ({"schedule": "often"}, 422, "schedule"),
        ({"schedule": 5}, 422, "schedule"),
        ({"config": 5}, 422, "config"),
        ({"config": {"load": 5}}, 422, "config"),
        ({"config": {"target": 5}}, 422, "config"),
        ({"config": {"budget": 5}}, 422, "config"),
        ({"config": {"parameters": {"a": "\ud800"}}}, 422, "config"),
        ({"config": {"parameters": nested(600)}}, 422, "config"),
        ({"config": f"parameters = {'{a = ' * 60}1{'}' * 60}"}, 422, "config"),
        ({"config": {"budget": {"requests": 10**401}}}, 422, "config"),
        ({"config": {"budget": {"requests": -(10**401)}}}, 422, "config"),
        ({"config": f"budget.requests = 1{'0' * 5_000}"}, 422, "config"),
        ({"kind": "plan", "config": {"runs": ["base"], "slo": ["a\x00b"]}}, 422, "slo.0"),
        ({"kind": "plan", "config": {"runs": ["base"], "region": "\ud800"}}, 422, "region"),
        ({"kind": "plan", "config": {"runs": ["base"], "demand": "20"}}, 422, "demand"),
        ({"kind": "plan", "config": {}}, 422, "runs"),
        ({"kind": "plan", "config": {"runs": ["base"], "prices": "/etc/passwd"}}, 422, "prices"),
        ({"kind": "plan", "config": {"runs": ["base"], "demand": "/etc/passwd"}}, 422, "demand"),
        ({"kind": "plan", "config": {"runs": ["../base"]}}, 404, "id"),
        ({"kind": "plan", "config": {"runs": ["--help"]}}, 404, "id"),
    ],
)
def test_a_job_that_is_none_is_refused_by_its_field(client, job, status, where):
    answer = client.post("/api/jobs", content=json.dumps(job), headers={"content-type": "application/json"})
    assert refusal(answer)[:2] == (status, where)


def test_a_job_may_come_as_toml(client):
    body = 'name = "n"\ntags = ["a"]\n[config.load]\nrate = "5/s"\n'
    answer = client.post("/api/jobs", content=body, headers={"content-type": "application/toml"})
    assert answer.status_code == 201 and answer.json()["job"]["tags"] == ["a"]
    plan = 'kind = "plan"\nconfig = \'runs = ["base"]\'\n'
    answer = client.post("/api/jobs", content=plan, headers={"content-type": "application/toml"})
    assert answer.json()["job"]["kind"] == "plan"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"name": 1' + b"0" * 5_000 + b"}", b'{"name": NaN}'],
)
def test_a_body_that_is_no_table_is_refused(client, body):
    answer = client.post("/api/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_a_body_that_is_too_large_is_refused(client):
    assert client.post("/api/jobs", json={"name": "x" * (256 << 10)}).status_code == 413


def test_a_job_that_waits_is_cancelled_at_once_and_only_once(client):
    job = submit(client)
    assert client.delete(f"/api/jobs/{job}").json()["job"]["state"] == "cancelled"
    assert client.delete(f"/api/jobs/{job}").status_code == 200, "it is what was asked for"
    client.app.state.desk.jobs.start(done := submit(client))
    client.app.state.desk.jobs.end(done, State.DONE, exit_code=0, error=None)
    assert refusal(client.delete(f"/api/jobs/{done}"))[0] == 409
    assert client.delete("/api/jobs/nothing").status_code == 404


def test_jobs_are_listed_by_state_and_in_pages(client):
    ids = [submit(client) for _ in range(3)][::-1]
    listed = client.get("/api/jobs", params={"state": "queued"}).json()["jobs"]
    assert [each["id"] for each in listed] == ids
    second = client.get("/api/jobs", params={"limit": 1, "before": listed[0]["number"]}).json()["jobs"]
    assert [each["id"] for each in second] == ids[1:2]
    for bad in ({"state": "asleep"}, {"limit": "0"}, {"limit": "-1"}, {"before": "1e9"}, {"limit": "9" * 30}):
        assert client.get("/api/jobs", params=bad).status_code == 422, bad


def test_runs_are_listed_with_their_figures_and_found_by_tag(client, runs):
    listed = client.get("/api/runs").json()["runs"]
    assert {each["id"] for each in listed} == {"base", "new"}
    summary = json.loads((runs / "new" / "summary.json").read_bytes())
    (new,) = (each for each in listed if each["id"] == "new")
    assert (new["valid"], new["headline"]) == (summary["validity"]["valid"], summary["headline"])
    assert new["monthly_usd"] == summary["serverless"]["per_month_usd"] and new["headroom"] > 0
    assert client.put("/api/runs/new/tags", json={"tags": ["east", " v2 "]}).json()["run"]["tags"] == ["east", "v2"]
    found = [client.get("/api/runs", params={"tag": tags}).json()["runs"] for tags in (["east"], ["east", "v3"])]
    assert [[each["id"] for each in each] for each in found] == [["new"], []]


def test_a_run_is_read_anew_when_it_has_changed(tmp_path):
    client = app_on(tmp_path / "runs")
    run = synthetic_run(tmp_path / "runs", 60, **OUTPUT)
    assert client.get("/api/runs/run").json()["run"]["state"] == "complete"
    run.manifest.model_copy(update={"state": "interrupted"}).write(run.folder)
    assert client.get("/api/runs/run").json()["run"]["state"] == "interrupted"
    (run.folder / "manifest.json").write_text("{")
    assert client.get("/api/runs").json() == {"runs": []}
    assert client.get("/api/runs/run").status_code == 404


def test_the_files_of_a_run_are_given_as_they_are(client, runs):
    samples = client.get("/api/runs/base/samples")
    assert pl.read_parquet(samples.content).height == 120
    assert client.get("/api/runs/base/summary").content == (runs / "base" / "summary.json").read_bytes()
    report = client.get("/api/runs/base/report")
    assert report.headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in report.headers["content-security-policy"]
    assert refusal(client.get("/api/runs/new/report"))[0] == 404


def test_a_plan_is_that_of_the_command_line(client, runs):
    answer = client.post(
        "/api/plan", json={"runs": ["base"], "growth": "3x", "slo": ["ttft.p95<1s"], "spare": 1}
    ).json()
    PlanAnswer.model_validate(answer)
    by_hand = told(runs, "plan", "base", "--growth", "3x", "--slo", "ttft.p95<1s", "--spare", "1", "--json")
    assert answer["plan"] == json.loads(by_hand.stdout)
    assert answer["exit_code"] == by_hand.returncode


@pytest.mark.long
def test_a_comparison_is_that_of_the_command_line(client, runs):
    answer = client.post("/api/compare", json={"base": "base", "new": "new", "fail_on": ["ttft.p95:+10%"]}).json()
    CompareAnswer.model_validate(answer)
    by_hand = told(runs, "compare", "base", "new", "--fail-on", "ttft.p95:+10%", "--json", "-")
    assert answer["comparison"] == json.loads(by_hand.stdout)
    assert answer["exit_code"] == by_hand.returncode


@pytest.mark.long
def test_what_a_plan_refuses_is_said_in_the_words_of_the_command_line(client):
    answer = client.post("/api/plan", json={"runs": ["base"], "region": "the moon"})
    assert refusal(answer)[0] == 422 and "--region: the price book knows no price in 'the moon'" in answer.text


def test_plans_and_comparisons_are_of_runs_that_are_there(client):
    assert refusal(client.post("/api/plan", json={"runs": ["gone"]}))[0] == 404
    assert refusal(client.post("/api/plan", json={"runs": []}))[:2] == (422, "runs")
    assert refusal(client.post("/api/compare", json={"base": "base"}))[:2] == (422, "new")


def test_metrics_count_jobs_by_state_and_show_how_far_they_are(client):
    desk = client.app.state.desk
    job = submit(client)
    desk.jobs.start(job)
    folder = desk.settings.state / "jobs" / job
    folder.mkdir(parents=True)
    (folder / "log").write_text('{"event": "progress", "sent": 7, "ok": 6}\n')
    text = client.get("/metrics").text
    queued = desk.jobs.counts()[State.QUEUED]
    assert f'headroom_jobs{{state="queued"}} {queued}\n' in text
    assert f'headroom_job_sent_requests{{job="{job}"}} 7\n' in text
    names = [line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert all(f"# TYPE {name} gauge\n" in text for name in names)
    assert client.get("/healthz").json()["status"] == "ok"
    desk.jobs.end(job, State.DONE, exit_code=0, error=None)


def test_the_progress_of_a_job_comes_as_events_until_its_end(client):
    desk = client.app.state.desk
    job = submit(client)
    desk.jobs.start(job)
    folder = desk.settings.state / "jobs" / job
    folder.mkdir(parents=True)
    lines = ['{"event": "started", "title": "t"}', '{"event": "progress", "sent": 7}', '{"event": "progress", "se']
    (folder / "log").write_text("\n".join(lines))
    desk.jobs.end(job, State.DONE, exit_code=0, error=None)
    text = client.get(f"/api/jobs/{job}/events").text
    events = [event.split("\n") for event in text.strip().split("\n\n")]
    assert [name for name, _ in events] == ["event: job", "event: about", "event: progress", "event: end"]
    assert [json.loads(data.removeprefix("data: ")) for _, data in events[1:3]] == [{"title": "t"}, {"sent": 7}]
    client.app.state.readers = 50
    assert client.get(f"/api/jobs/{job}/events").status_code == 503


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("/api/jobs?sate=running", "sate"),
        ("/api/jobs?tag=x", "tag"),
        ("/api/runs?tags=x", "tags"),
        ("/api/runs?before=none", "before"),
        ("/api/runs?limit=0", "limit"),
    ],
)
def test_a_question_that_is_none_is_refused_by_its_key(client, place, where):
    assert refusal(client.get(place))[:2] == (422, where)


def test_runs_are_listed_in_pages(client):
    every = [run["id"] for run in client.get("/api/runs").json()["runs"]]
    first = client.get("/api/runs?limit=1").json()["runs"][0]["id"]
    rest = client.get(f"/api/runs?before={first}").json()["runs"]
    assert [first, *(run["id"] for run in rest)] == every and len(every) == 2


@pytest.mark.parametrize("body", [{"tags": "a,b"}, {"tags": ["a"], "x": 1}, {}])
def test_tags_come_as_a_list_alone(client, body):
    assert client.put("/api/runs/base/tags", json=body).status_code == 422


def test_a_media_type_is_read_whichever_way_it_is_written(client):
    answer = client.post("/api/jobs", content='name = "n"', headers={"content-type": "Application/TOML; charset=utf-8"})
    assert answer.status_code == 201
