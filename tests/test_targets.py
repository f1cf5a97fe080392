"""Several targets in one run: who gets what, with which key and quota, what is told of each, and what is refused."""

import json
from collections import Counter
from contextlib import ExitStack

import polars as pl
import pytest

from loadgen.config import RunConfig, TargetConfig
from loadgen.errors import ConfigError
from loadgen.loadtest import load_config
from loadgen.samples import Run, check_ledger
from loadgen.target import credential_of
from tests.commands import deployment, headroom, side_by_side, told
from tests.servers import Server, always, response

SECONDS = [
    "--duration",
    "2s",
    "--warmup",
    "0s",
    "--max-tokens",
    "16",
    "--no-report",
    "--quiet",
    "--rpm",
    "60000",
    "--tpm",
    "9000000",
]
REFUSAL = always(response(b'{"error":{"code":"429"}}', "429 Too Many Requests", retry_after=30))


async def silence(call, writer):
    """Never answers."""


SESSIONS = "[prompts]\nturns = 'fixed:2'\nturn_pause = 0.05\n[scenarios]\nchat = 1\nstreaming = 1\nconversation = 1"
RUNS = {  # name: what it answers as first and second target, what the file says of them, and of the load
    "weight": ((deployment, deployment), ("weight = 3\nkey = 'env:ONE'", "key = 'env:TWO'"), ""),
    "each": ((deployment, deployment), ("", "dialect = 'azure'"), f"split = 'each'\n{SESSIONS}"),
    "elsewhere": ((REFUSAL, deployment), ("", ""), "split = 'round_robin'\nretries = 1\nthrottle = 'off'"),
    "stay": (
        (always(response(b"{}", "503 Busy", retry_after_ms=50)), deployment),
        ("", ""),
        "split = 'round_robin'\nretries = 1\nretry_elsewhere = false",
    ),
    "least": (
        (deployment, deployment),
        ("quota.requests_per_minute = 60", ""),
        "split = 'least_throttled'\narrivals = 'constant'",
    ),
    "silent": ((silence, silence), ("", ""), "split = 'round_robin'\nduration = 1\ndrain = 0.3"),
}

QUICK = ["weight", "each", "elsewhere", "least"]


class Played:
    """A run of two targets: its rows, its plan, and what each target received."""

    def __init__(self, folder, done, servers):
        self.code, self.err, self.calls = done.returncode, done.stderr, [server.calls for server in servers]
        self.run = Run.open(folder)
        self.rows = self.run.samples.collect()
        self.plan = json.loads((folder / "summary.json").read_bytes())

    def of(self, name):
        return self.rows.filter(pl.col("target") == name)


def play_all(cwd, names):
    def play(name):
        scripts, tables, load = RUNS[name]
        with ExitStack() as stack:
            servers = [stack.enter_context(Server(script)) for script in scripts]
            pairs = zip(("a", "b"), servers, tables, strict=True)
            targets = [f"[[target]]\nname = '{each}'\nurl = '{server.url}'\n{table}\n" for each, server, table in pairs]
            (cwd / f"{name}.toml").write_text("\n".join(targets) + f"\n[load]\n{load}\n")
            mix = [] if "[scenarios]" in load else ["--scenario", "chat", "--scenario", "streaming"]
            flags = [*SECONDS, *mix, "--rate", "40/s", "--out", name]
            flags = flags[2:] if "duration" in load else flags
            done = headroom(
                cwd, "run", f"{name}.toml", *flags, ONE="key-of-a", TWO="key-of-b", AZUREAI_ENDPOINT_KEY="x"
            )
            assert done.returncode in (0, 4), done.stderr
            return Played(cwd / name, done, servers)

    return dict(zip(names, side_by_side(play, names), strict=True))


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play_all(tmp_path_factory.mktemp("targets"), QUICK)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return play_all(tmp_path_factory.mktemp("targets"), [name for name in RUNS if name not in QUICK])


@pytest.mark.parametrize("name", QUICK)
def test_the_ledger_adds_up_over_all_targets(played, name):
    run = played[name]
    check_ledger(run.run.manifest.totals)
    received = len(run.calls[0]) + len(run.calls[1])
    assert run.run.manifest.totals["attempts"] == received == sum(t["traffic"]["attempts"] for t in run.plan["targets"])
    assert [target["name"] for target in run.plan["targets"]] == ["a", "b"]
    assert run.run.manifest.deployments.keys() == {"a", "b"}


def test_by_weight_each_gets_its_share_with_its_own_key_and_no_one_elses(played):
    run = played["weight"]
    assert run.of("a").height == len(run.calls[0])
    assert 0.6 < run.of("a").height / run.rows.height < 0.9
    for calls, key in zip(run.calls, ("key-of-a", "key-of-b"), strict=True):
        assert {call.header("api-key") for call in calls} == {key}
    assert not any(b"key-of" in path.read_bytes() for path in run.run.folder.iterdir())


def test_the_environments_key_goes_to_no_one_of_several(played):
    assert {call.header("api-key") for calls in played["each"].calls for call in calls} == {None}


def test_each_target_gets_the_same_bytes_at_the_same_time(played):
    run = played["each"]
    bodies = [Counter(call.body for call in calls) for calls in run.calls]
    assert bodies[0] == bodies[1] and sum(bodies[0].values()) > 50
    opening = run.rows.filter(pl.col("session").is_null())
    pairs = opening.group_by(pl.col("seq") // 2).agg(pl.col("due_ns", "scenario", "target").n_unique(), rows=pl.len())
    assert pairs.select("due_ns", "scenario", "target", "rows").unique().rows() == [(1, 1, 2, 2)]


def test_a_session_stays_at_its_target_and_goes_on_alike_at_each(played):
    run = played["each"]
    later = run.rows.filter(pl.col("session").is_not_null())
    began = run.rows.select(session="seq", first="target")
    assert later.join(began, on="session").select(pl.col("target") == pl.col("first")).to_series().all()
    pairs = later.group_by(pl.col("session") // 2).agg(
        pl.col("target", "estimated_prompt_tokens").n_unique(), rows=pl.len()
    )
    both = pairs.filter(rows=2)  # one may have come due too late
    assert both.height > 10 and both.select("target", "estimated_prompt_tokens").unique().rows() == [(2, 1)]
    assert pairs["rows"].max() == 2


def test_what_one_target_refuses_is_tried_at_the_other_at_once(played):
    run = played["elsewhere"]
    refused, again = run.rows.filter(outcome="throttled"), run.rows.filter(attempt=1)
    assert set(refused["target"]) == {"a"} and set(again["target"]) == {"b"}
    assert set(again["outcome"]) == {"ok"} and again.height == refused.height > 25
    pairs = refused.join(again, on="seq")
    assert (pairs["admitted_ns_right"] - pairs["done_ns"]).median() < 50_000_000, "its Retry-After is not the other's"
    assert set(again["seq"] % 2) == {0}, "in turn: the even ones went to a first"


@pytest.mark.long
def test_a_retry_stays_where_it_was_refused_if_it_is_told_to(others):
    assert set(others["stay"].rows.filter(outcome="server_error")["target"]) == {"a"}
    assert set(others["stay"].rows.filter(attempt=1)["target"]) == {"a"}


def test_the_least_throttled_is_spared_the_wait_that_a_small_quota_would_mean(played):
    run = played["least"]
    small, large = run.of("a"), run.of("b")
    assert 0 < small.height < 10 and large.height > 60
    waits_ns = run.rows["admitted_ns"] - run.rows["due_ns"]
    assert (waits_ns < 100_000_000).mean() > 0.95


@pytest.mark.long
def test_what_is_never_answered_is_a_timeout_at_every_target(others):
    ended = others["silent"].rows.group_by("target", "outcome", "error").len().drop("len").rows()
    assert sorted(ended) == [("a", "timeout", "drain_timeout"), ("b", "timeout", "drain_timeout")]


@pytest.mark.long
def test_two_simulated_deployments_have_a_name_and_a_quota_each(tmp_path):
    flags = ["--target", "sim", "--target", "sim", "--split", "round_robin", "--rate", "20/s", "--scenario", "chat"]
    done = headroom(tmp_path, "run", *flags, *SECONDS[:6], "--out", "run")
    assert done.returncode in (0, 4), done.stderr
    run = Run.open(tmp_path / "run")
    assert sorted(run.samples.collect()["target"].unique()) == ["sim-1", "sim-2"]
    urls = [target["url"] for target in run.manifest.config["target"]]
    assert len(set(urls)) == 2 and all(about["simulated"] for about in run.manifest.deployments.values())
    for line in ("2 targets", "Latency by target, ms", "2 of the 2 targets were simulated"):
        assert line in done.stdout
    assert 'id="targets"' in (tmp_path / "run" / "report.html").read_text()


def test_a_target_that_cannot_be_probed_is_named_and_nothing_is_sent(tmp_path):
    with Server(deployment) as good, Server(deployment) as bad:
        bad.info = response(b"{}", "404 Not Found")
        done = told(tmp_path, "run", "--target", good.url, "--target", bad.url, *SECONDS, "--out", "run")
        assert (done.returncode, good.calls, bad.calls) == (2, [], [])
    assert f"target {bad.url}: " in done.stderr
    assert not (tmp_path / "run").exists()


MISTAKES = [  # what the file says, and what is wrong with it
    ("[[target]]\nurl = 'http://a/x'\n[[target]]\nurl = 'http://a/y'", "2 targets are called 'http://a:80'"),
    ("[[target]]\nname = 'x'\nurl = 'sim'\n[[target]]\nurl = 'sim'\nname = 'x'", "2 targets are called 'x'"),
    ("[[target]]\nurl = 'sim'\n[[target]]\nname = 'x'", "target 2 has no url"),
    ("target = []", "there is none"),
    ("[[target]]\nurl = 'sim'\n[[target]]\nurl = 'sim'\nkund = 'x'", "target 2.kund: unknown key; did you mean 'kind'"),
    (
        "[[target]]\nurl = 'sim'\n[[target]]\nurl = 'sim'\nquota.tokens_per_minute = 0",
        "target 2.quota: tokens_per_minute",
    ),
    ("[target]\nusd_per_1k_prompt = 1", "target: usd_per_1k_prompt and usd_per_1k_completion make a price together"),
    ("[target]\nweight = 0", "target.weight: input should be greater than 0"),
    (
        "[[target]]\nurl = 'sim'\n[[target]]\nurl = 'sim'\n[load]\nusers = 2\nsplit = 'each'",
        "a closed loop's depend on",
    ),
    ("[load]\nsplit = 'evenly'", "load.split: input should be 'weight', 'round_robin', 'least_throttled' or 'each'"),
]


@pytest.mark.parametrize(("text", "complaint"), MISTAKES)
def test_a_mistake_in_a_target_is_named(tmp_path, text, complaint):
    (tmp_path / "loadtest.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "loadtest.toml", {}, {})
    assert complaint in str(error.value)


def test_a_request_that_one_quota_never_admits_is_an_error_that_names_it(tmp_path):
    (tmp_path / "t.toml").write_text(
        "[[target]]\nurl = 'sim'\n[[target]]\nurl = 'sim'\nquota.tokens_per_minute = 100\n"
    )
    done = told(tmp_path, "run", "t.toml", "--check")
    assert done.returncode == 2 and "target sim-2: every request counts" in done.stderr


def test_a_targets_quota_says_only_what_differs(tmp_path):
    text = (
        "[quota]\nwindow = 'minute'\n[[target]]\nurl = 'sim'\n[[target]]\nurl = 'sim'\nquota.requests_per_minute = 5\n"
    )
    (tmp_path / "loadtest.toml").write_text(text)
    config = load_config(tmp_path / "loadtest.toml", {"quota.tokens_per_minute": 700}, {})
    quotas = [config.quota_of(target) for target in config.targets]
    assert [(quota.window, quota.tokens_per_minute, quota.requests_per_minute) for quota in quotas] == [
        ("minute", 700, 1_000),
        ("minute", 700, 5),
    ]
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


FLAGS = [  # the file's urls, those of --target, and what comes of it
    ([], ["sim"], ["sim"]),
    (["http://a"], ["http://b"], ["http://b"]),
    (["http://a", "http://b"], [], ["http://a", "http://b"]),
    (["http://a", "http://b"], ["http://c"], ["http://c"]),
    (["http://a"], ["http://c", "http://d"], ["http://c", "http://d"]),
]


@pytest.mark.parametrize(("in_file", "on_line", "urls"), FLAGS)
def test_targets_of_the_command_line_replace_the_files_and_other_flags_hold_for_all(tmp_path, in_file, on_line, urls):
    (tmp_path / "loadtest.toml").write_text("".join(f"[[target]]\nurl = '{url}'\n" for url in in_file))
    flags = {"target.kind": "managed"} | ({"target.url": on_line} if on_line else {})
    config = load_config(tmp_path / "loadtest.toml", flags, {})
    assert [target.url for target in config.targets] == urls
    assert {target.kind for target in config.targets} == {"managed"}


def test_the_manifest_of_one_target_is_what_it_was(tmp_path):
    config = RunConfig(targets=(TargetConfig(url="http://a"),))
    dumped = config.model_dump(mode="json")
    assert dumped["target"]["url"] == "http://a" and "targets" not in dumped
    old = {
        name: value for name, value in dumped["target"].items() if name in ("url", "dialect", "kind", "model", "key")
    }
    assert RunConfig.model_validate({**dumped, "target": old}) == config


def test_of_several_targets_only_the_key_that_is_named_is_read():
    environment = {"AZURE_INFERENCE_CREDENTIAL": "k" * 20}
    assert credential_of(TargetConfig(), environment) is not None
    assert credential_of(TargetConfig(), environment, alone=False) is None
    assert credential_of(TargetConfig(key="env:AZURE_INFERENCE_CREDENTIAL"), environment, alone=False) is not None
