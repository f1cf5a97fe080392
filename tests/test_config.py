"""loadtest.toml and the flags over it: what is accepted, and what a mistake is told."""

import pytest

from loadgen.config import RunConfig
from loadgen.errors import ConfigError
from loadgen.loadtest import load_config
from loadgen.slo import Slo, parse_duration_ns


def load(tmp_path, text="", flags=None, environment=None):
    path = tmp_path / "loadtest.toml"
    path.write_text(text)
    return load_config(path, flags or {}, environment or {})


def test_without_file_or_flags_the_simulator_is_the_target():
    config = load_config(None, {}, {})
    assert (config.target.url, config.load.rate_per_s, config.load.duration) == ("sim", 6.0, 60.0)
    assert set(config.scenarios) == {"chat", "streaming", "vision"}


@pytest.mark.parametrize("name", ["AZURE_INFERENCE_ENDPOINT", "AZUREAI_ENDPOINT_URL"])
def test_the_environment_names_the_target_where_nothing_else_does(tmp_path, name):
    environment = {name: "https://x.eastus2.inference.ai.azure.com"}
    assert load(tmp_path, environment=environment).target.url == environment[name]
    assert load(tmp_path, '[target]\nurl = "sim"', environment=environment).target.url == "sim"
    assert load(tmp_path, flags={"target.url": "sim"}, environment=environment).target.url == "sim"


def test_flags_override_the_file(tmp_path):
    text = 'slo = "ttft.p95<1s"\n[load]\nrate = "2/s"\nduration = "2m"\n[scenarios]\nchat = 1\n'
    config = load(tmp_path, text, {"load.rate": "300/min", "scenarios": {"vision": 2.0}})
    assert (config.load.rate, config.load.duration, config.scenarios) == (5.0, 120.0, {"vision": 2.0})
    assert config.slo == ("ttft.p95<1s",)


def test_a_flag_that_sets_the_loads_shape_replaces_the_files(tmp_path):
    config = load(tmp_path, '[load]\nrate = "2/s"', {"load.users": 7})
    assert (config.load.users, config.load.rate, config.load.open_loop) == (7, None, False)


def test_what_a_trace_holds_is_replayed_unless_a_mix_is_given(tmp_path):
    assert load(tmp_path, '[load]\ntrace = "t.csv"').scenarios == {"replay": 1}
    assert load(tmp_path, '[load]\ntrace = "t.csv"\n[scenarios]\nchat = 1').scenarios == {"chat": 1}


def test_a_config_survives_the_manifest(tmp_path):
    config = load(
        tmp_path, 'slo = ["ttft.p95<1s"]\n[quota]\nwindow = "sliding"\n[target]\nkey = "env:X"\nkind = "managed"'
    )
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[load]\nrat = 3", "load.rat: unknown key; did you mean 'rate'"),
        ("[lod]\nrate = 3", "lod: unknown key; did you mean 'load'"),
        ("[quota]\ntokens = 3", "quota.tokens: unknown key; did you mean 'tokens_per_minute'"),
        ("[load]\nslo = 'ttft.p95<1s'", r"load\.slo: unknown key; 'slo' stands above the first \[table\]$"),
        ("rate = 3", r"rate: unknown key; 'rate' stands under \[load\]$"),
        (
            "[target]\ntokens = 3",
            r"target\.tokens: unknown key; 'tokens' stands under \[prompts\] or under \[budget\]$",
        ),
        ("[load]\nbudget = 3", r"load\.budget: unknown key; 'budget' stands as a table of its own, \[budget\]$"),
        ("[output]\nzzz = 3", "output.zzz: unknown key; known are dir, report"),
        ("[quota]\ntokens_per_minute = 0", "quota: tokens_per_minute must be above zero, not 0"),
        ("[quota]\nrequests_per_minute = -5", "quota: requests_per_minute must be above zero"),
        ("[load]\nusers = 3\nrate = 4", "load: users and rate exclude each other"),
        ("[load]\nusers = 0", "load.users: input should be greater than or equal to 1"),
        ("[load]\nrate = 0", "load.rate: input should be greater than 0"),
        ('[load]\nrate = "fast"', "load.rate: 'fast' is not a rate; write it like 5/s"),
        ('[load]\nduration = "5 parsecs"', "load.duration: '5 parsecs' is not a duration"),
        ('[load]\nduration = "5s"\nwarmup = "5s"', "load: warmup 5 s and cooldown 0 s leave nothing"),
        ('[load]\narrivals = "uniform"', "load.arrivals: input should be 'constant', 'poisson' or 'gamma'"),
        ('[target]\nkey = "entra"', "target: serverless endpoints do not accept Entra ID"),
        ('slo = ["ttft<1s"]', "'ttft<1s' is not an objective"),
        ('slo = ["speed.p95<1s"]', "'speed.p95<1s' names no metric"),
        ('slo = ["ttft.p95<fast"]', "'fast' is not a duration"),
        ("[scenarios]\nchat = 0", "scenarios.chat: input should be greater than 0"),
        ("x = [", "is not TOML: .*line 1|is not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_file_and_key(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=rf"loadtest\.toml(: | ){complaint}|loadtest\.toml: slo: {complaint}"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"load.rate": "abc"}, "^--rate: 'abc' is not a rate"),
        ({"load.throttle": "gentle"}, "^--throttle: input should be 'pace', 'off' or 'feedback'"),
        ({"load.seed": -1}, "^--seed: "),
        ({"slo": ["ttft.p95<1s", "x"]}, "^--slo: 'x' is not an objective"),
        ({"load.speed": 0}, "^--speed: input should be greater than 0"),
    ],
)
def test_a_mistake_in_a_flag_is_named_by_the_flag(flags, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_config(None, flags, {})


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"load.workers": 2}, "^--workers: goes with --master"),
        ({"load.bind": "10.0.0.5:5557"}, "^--bind: goes with --master"),
        ({"load.split": "each"}, "^--split: shares the load among several targets, and there is one: add a --target"),
        ({"target.kind": "managed", "quota.tokens_per_minute": 9}, "^--tpm: managed deployments have no quota"),
        ({"target.kind": "managed", "quota.requests_per_minute": 9}, "^--rpm: managed deployments have no quota"),
    ],
)
def test_a_flag_that_the_run_makes_no_use_of_is_an_error(flags, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_config(None, flags, {})


def test_what_is_of_use_to_one_of_several_or_waits_in_a_file_is_none(tmp_path):
    text = "[load]\nworkers = 3\nsplit = 'each'\n[[target]]\nurl = 'sim'\nkind = 'managed'\n"
    load(tmp_path, text)
    load(tmp_path, text.replace("workers = 3", "master = true"), {"load.workers": 2, "load.bind": "10.0.0.5:5557"})
    load(tmp_path, text + "[[target]]\nurl = 'sim'\n", {"load.split": "weight", "quota.tokens_per_minute": 700})


def test_all_mistakes_are_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[load]\nrat = 3\nusers = 0")
    assert len(str(caught.value).splitlines()) == 2


def test_a_key_in_the_file_is_refused_and_never_repeated(tmp_path):
    with pytest.raises(ConfigError, match="must say where the key is") as caught:
        load(tmp_path, '[target]\nkey = "sk-canary-0123456789"')
    assert "canary" not in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        load_config(tmp_path / "none.toml", {}, {})


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("500ms", 500_000_000),
        ("1.5s", 1_500_000_000),
        ("2m", 120_000_000_000),
        ("1h", 3_600_000_000_000),
        ("7", 7_000_000_000),
    ],
)
def test_durations(text, ns):
    assert parse_duration_ns(text) == ns


def test_an_objective_knows_its_parts():
    slo = Slo.parse(" ttft.p99.9 < 1.5s ")
    assert (slo.metric, slo.statistic, slo.quantile, slo.limit_ns, slo.text) == (
        "ttft",
        "p99.9",
        0.9990000000000001,
        1_500_000_000,
        "ttft.p99.9<1.5s",
    )
    assert Slo.parse("itl.mean<=20ms").quantile is None
