"""Who may import whom, and which file may know which library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.aside

ROOT = Path(__file__).parent.parent
OURS = ("loadgen", "scenarios", "planner", "dashboards", "headroom")
MAY_IMPORT = {  # the longest matching prefix of the file's name decides
    "loadgen/": ("loadgen",),
    "loadgen/simulator/": ("loadgen.simulator", "loadgen.quota", "loadgen.tokens", "loadgen.errors"),
    "scenarios/": ("scenarios", "loadgen"),
    "planner/": (
        "planner",
        "loadgen.durable",
        "loadgen.samples",
        "loadgen.quota",
        "loadgen.config",
        "loadgen.closed_loop",
        "loadgen.slo",
        "loadgen.errors",
        "loadgen.lengths",
        "loadgen.schedule",
        "loadgen.schedule_file",
        "loadgen.shapes",
        "loadgen.simulator.autoscale",  # pure: the rules are planned as they are simulated
        "loadgen.tokens",
        "loadgen.toml_file",
        "loadgen.traces",
    ),
    "dashboards/": ("dashboards", "planner", "loadgen.durable", "loadgen.samples", "loadgen.quota"),
    "headroom/": ("headroom", "dashboards", "planner", "scenarios.PLACES", "loadgen"),
}
ONLY_IN = {  # library -> the files allowed to know it
    "locust": (
        "loadgen/player.py",
        "loadgen/users.py",
        "loadgen/feed.py",
        "loadgen/__main__.py",
        "loadgen/load.py",
        "loadgen/scenario_check.py",
        "loadgen/spread/channel.py",
        "loadgen/spread/conductor.py",
        "loadgen/spread/worker.py",
        "scenarios/",
        "headroom/templates/",  # what is exported
    ),
    "gevent": (
        "loadgen/alarm.py",
        "loadgen/arrivals.py",
        "loadgen/connection.py",
        "loadgen/endpoint.py",
        "loadgen/feed.py",
        "loadgen/throttle.py",
        "loadgen/player.py",
        "loadgen/lane.py",
        "loadgen/users.py",
        "loadgen/__main__.py",
        "loadgen/load.py",
        "loadgen/voice.py",
        "loadgen/watches.py",
        "loadgen/spread/channel.py",
        "loadgen/spread/conductor.py",
        "loadgen/spread/reception.py",
        "loadgen/spread/dealer.py",
        "loadgen/spread/worker.py",
        "loadgen/spread/distant.py",
    ),
    "cronsim": ("headroom/service/",),
    "yaml": ("headroom/failure_criteria.py",),
    "httpx": ("loadgen/probe.py", "planner/retail.py", "headroom/service/client.py"),
    "asyncio_throttle": ("planner/retail.py",),
    "httptools": ("loadgen/wire.py", "loadgen/simulator/protocol.py"),
    "plotly": ("dashboards/",),
    "jinja2": ("dashboards/",),
    "rich": ("dashboards/", "headroom/"),
    "typer": ("headroom/",),
    "sqlite3": ("headroom/service/database.py",),
    "starlette": ("loadgen/simulator/", "headroom/live_server.py", "headroom/service/"),
    "uvicorn": (
        "loadgen/simulator/",
        "headroom/live_server.py",
        "headroom/service/serving.py",
        "headroom/service/connections.py",
    ),
    "opentelemetry": ("headroom/telemetry.py",),
    "polars": (
        "loadgen/samples.py",
        "loadgen/durable.py",
        "loadgen/damage.py",
        "loadgen/spread/shipping.py",
        "loadgen/ground_truth.py",
        "loadgen/schedule_file.py",
        "loadgen/traces.py",
        "planner/",
        "dashboards/",
    ),
    "numpy": ("planner/",),
    "PIL": ("scenarios/vision.py", "loadgen/pictures.py", "loadgen/simulator/"),
}
PURE = (
    "answers",
    "lengths",
    "prompts",
    "requests",
    "schedule",
    "shapes",
    "cells",
    "closed_loop",
    "fields",
    "load_shape",
    "tokens",
    "quota",
    "slo",
    "backoff",
    "budget",
    "autostop",
    "guards",
    "refusals",
    "spread/dealing",
    "spread/desk",
    "spread/roster",
    "sse",
    "simulator/serving",
    "simulator/units",
    "simulator/batching",
    "simulator/autoscale",
    "simulator/fleet",
    "simulator/endpoint",
    "simulator/virtual",
    "simulator/hardware",
)  # and wire, which also knows samples
PURE_OF_PLANNER = (  # they know a frame only by the columns of a Demand
    "cost",
    "cost_plan",
    "costs/cost_case",
    "costs/cost_results",
    "costs/cost_words",
    "costs/demand_path",
    "costs/following",
    "costs/growth",
    "costs/hybrid",
    "costs/options",
    "costs/uncertainty",
    "fleet",
    "fleets/attainment",
    "fleets/autoscaling",
    "fleets/fleet_checks",
    "fleets/fleet_plan",
    "fleets/one_instance",
    "fleets/sharing",
    "fleets/simulated_rate",
    "fleets/waiting",
    "levers",
    "limits_ahead",
    "serving/closure",
    "serving/curves",
    "serving/first_token",
    "serving/fitted",
    "serving/fitting",
    "serving/highest",
    "serving/outlook",
    "serving/places",
    "serving/saturation",
    "serving/spread",
    "serving/steps_met",
)
IMPURE = ("asyncio", "gevent", "httpx", "os", "polars", "socket", "subprocess", "threading", "time")


def source_files():
    return [path for top in OURS for path in sorted((ROOT / top).glob("**/*.py"))]


def imported(node):
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        yield from imported(node)


def within(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_downwards_and_libraries_stay_in_their_place(path):
    name = path.relative_to(ROOT).as_posix()
    allowed = MAY_IMPORT[max((key for key in MAY_IMPORT if name.startswith(key)), key=len)]
    for module in imports(path):
        if within(module, OURS):
            assert within(module, allowed), f"{name} may not import {module}"
        for library, files in ONLY_IN.items():
            assert not within(module, [library]) or name.startswith(files), f"{name} may not import {module}"


@pytest.mark.parametrize("name", [*PURE, "wire"])
def test_pure_files_import_no_clock_socket_or_frame(name):
    for module in imports(ROOT / "loadgen" / f"{name}.py"):
        assert not within(module, IMPURE), f"loadgen/{name}.py is pure and may not import {module}"


@pytest.mark.parametrize("name", PURE_OF_PLANNER)
def test_pure_files_of_the_planner_import_no_clock_socket_or_frame(name):
    for module in imports(ROOT / "planner" / f"{name}.py"):
        assert not within(module, IMPURE), f"planner/{name}.py is pure and may not import {module}"


@pytest.mark.parametrize("path", source_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_stay_readable_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 400


def file_of(module):
    """Of a module of ours, or of the one that what is named so stands in."""
    names = [module, module.rpartition(".")[0]]
    paths = [ROOT / f"{name.replace('.', '/')}{end}" for name in names for end in (".py", "/__init__.py")]
    return next((path for path in paths if module.startswith(OURS) and path.is_file()), None)


def started_with(path, seen):
    """All that a file imports as it starts, itself or by others of ours."""
    for module in {module for node in ast.parse(path.read_text()).body for module in imported(node)} - seen:
        seen.add(module)
        if (file := file_of(module)) is not None:
            started_with(file, seen)
    return seen


@pytest.mark.parametrize(
    "process",
    ["loadgen/__main__.py", "loadgen/spread/worker.py", "loadgen/recorder.py", "loadgen/simulator/__main__.py"],
)
def test_the_processes_of_a_load_start_without_what_they_make_no_use_of(process):
    known = {module.partition(".")[0] for module in started_with(ROOT / process, set())}
    assert known & {"httpx", "numpy", "plotly", "jinja2", "typer", "rich", "planner", "dashboards", "headroom"} == set()


def printed_by(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_the_command_line_starts_without_the_heavy_libraries():
    heavy = "('locust', 'gevent', 'polars', 'plotly', 'httpx', 'numpy', 'starlette', 'opentelemetry')"
    assert printed_by(f"import sys, headroom.cli; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_a_benchmark_finds_the_planner_and_not_the_benchmark_of_that_name():
    folder = str(ROOT / "benchmarks")
    program = (
        f"import sys; sys.path.insert(0, {folder!r}); import planner.quota; print(planner.quota.what_if.__module__)"
    )
    assert printed_by(program) == "planner.quota"


@pytest.mark.parametrize("program", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_benchmark_asks_of_our_packages_what_they_have(program):
    """Nobody runs them but by hand, so a name that has gone would be missed."""
    for node in ast.parse((ROOT / "benchmarks" / f"{program}.py").read_text()).body:
        if isinstance(node, ast.ImportFrom) and (file := file_of(node.module)) is not None:
            names = {name for each in ast.parse(file.read_text()).body for name in named_by(each)}
            assert {alias.name for alias in node.names} <= names, f"{program}.py: {node.module}"


def named_by(statement):
    """The names that a statement of a module gives it."""
    match statement:
        case ast.FunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name for alias in statement.names]
        case ast.Assign() | ast.AnnAssign():
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return []
