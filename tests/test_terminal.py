"""The end of `headroom run` and `headroom plan`, and the display while a run lasts."""

# ruff: noqa: RUF001 - intervals are written with an en dash
from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dashboards.live_panel import About, LiveView, Progress
from dashboards.terminal import print_plan
from planner.assemble import plan_run
from planner.plan import Plan, Validity
from tests.plans import example_plan, latency_row, with_every_text
from tests.runs import make_run

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\r\n\x08\u202e[bold red]x[/] [link=https://evil.example]y[/link] :skull:"


def printed(plan: Plan, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_plan(plan, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 120])
def test_every_line_fits_and_no_figure_is_cut_short(width: int) -> None:
    text = printed(example_plan(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for figure in (
        "12,480",
        "83.1",
        "80.5",
        "1,650",
        "1,598–1,753",
        "2,797–3,068",
        "151,250 of 200,000",
        "98,765 prompt",
    ):
        assert figure in text, figure


@pytest.mark.parametrize("width", [80, 120])
def test_answers_of_a_minute_and_millions_of_gaps_still_fit(width: int) -> None:
    slow = latency_row("response_time", "all", 1_234_567)
    long_ms = {name: getattr(slow, name) for name in ("p50", "p90", "p95", "p99")}
    slow = type(slow)(metric="response_time", scenario="all", n=999_999, mean_ms=None, max_ms=None, **long_ms)
    text = printed(example_plan(latency=(latency_row("itl", "all", 999_999), slow)), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "3,996–4,383" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_verdict_and_what_may_be_doubted_come_before_the_figures(width: int) -> None:
    reasons, doubts = ("3 % of the arrivals were dropped",), ("the run is short",)
    text = squeezed(printed(example_plan(validity=Validity(valid=False, reasons=reasons, doubts=doubts)), width))
    in_order = [
        *(
            "INVALID",
            "Do not plan from it: no figure below, costs included, can be relied on.",
            reasons[0],
            doubts[0],
            "Objectives",
            "Latency",
            "Traffic",
            "Quota",
            "Cost",
        ),
        *("serverless", "1 deployment", "Standard_NC24ads_A100_v4", "1 instance"),
    ]
    places = [text.index(part) for part in in_order[:9]] + [text.rindex(part) for part in in_order[9:]]
    assert places[:9] == sorted(places[:9])
    assert places[8] < min(places[9:])


def test_a_percentile_that_n_cannot_support_is_printed_as_what_it_lacks() -> None:
    text = printed(example_plan(), 120)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  ") and line.strip()}
    assert rows["TTFT"][-1] == "n<459"
    assert rows["ITL"][-2:] == ["43.1", "(41.8–45.8)"]


def test_words_say_what_colours_say() -> None:
    text = squeezed(printed(example_plan(), 80))
    for words in (
        "VALID",
        "met ttft.p95<1s 145 ms (141–154), n 412",
        "MISSED response_time.p95<2s 2,888 ms",
        "unclear itl.p99<50ms the data cannot say",
        "goodput 90.6 % 87.4 % to 93.1 %; 377 of 416 offered",
        "tokens 75.6 % 151,250 of 200,000 per minute <- binds first",
        "headroom 1.32 \N{MULTIPLICATION SIGN} this load",
        "429s 0.9 % 4 attempts",
        "this run so far $0.0040; a planned request $0.000013 serverless",
        "serverless 1 deployment $0.29 $212",
        "Standard_NC40ads_H100_v5 2 instances $13.96 $10,191 87.5/s",
    ):
        assert words in text


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [80, 120])
def test_control_characters_and_markup_of_others_are_not_obeyed(width: int, terminal: bool) -> None:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=terminal, color_system="standard", legacy_windows=False
    )
    print_plan(with_every_text(example_plan(), HOSTILE), console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    ours = re.sub(r"\x1b\[[0-9;]*m", "", text)  # rich's own colours
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", ours)
    assert "\x1b]8" not in text
    assert "[31mred2J" in squeezed(ours)
    assert "[bold red]x[/] [link=https://evil.example]y[/link] :skull:" in squeezed(ours)


BARE = {
    "managed, without objectives": {"quota": None, "slos": (), "goodput": None, "serverless": None, "what_if": ()},
    "nothing to price": {"serverless": None, "managed": (), "instances": None},
}


@pytest.mark.parametrize("case", BARE)
def test_parts_that_the_plan_lacks_are_left_out(case: str) -> None:
    text = printed(example_plan(**BARE[case]), 80)
    assert "None" not in text
    assert ("Objectives" in text, "Quota" in text) == ((False, False) if "managed" in case else (True, True))
    assert ("Cost" in text) == ("managed" in case)


def test_the_plan_of_a_run_without_an_answer_prints(tmp_path: Path) -> None:
    text = printed(plan_run(make_run(tmp_path, [])), 80)
    assert "INVALID" in text
    assert "None" not in text


def progress(t_s: float, **changes: Any) -> Progress:
    known: Progress = {
        "t_s": t_s,
        "duration_s": 60.0,
        "sent": 70,
        "in_flight": 9,
        "waiting": 0,
        "ok": 60,
        "failed": 1,
        "throttled": 2,
        "dropped": 3,
        "tokens": 12_345,
        "tokens_per_minute": 151_000,
        "requests_per_minute": 360,
        "ttft_p50_ms": 83.1,
    }
    return known | changes  # type: ignore[return-value]


def watched(console: Console, *shown: Progress, title: str = "sim") -> str:
    about = About(folder="runs/1", title=title, tokens_per_minute=200_000, requests_per_minute=1_000)
    with LiveView(console, about) as view:
        for each in shown:
            view.show(each)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_log_gets_one_plain_line_each_five_seconds() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    lines = watched(console, *(progress(float(t)) for t in range(12))).splitlines()
    assert [line.split(" of ")[0].strip() for line in lines] == ["0", "5", "10"]
    assert lines[1] == (
        "   5 of 60 s: 70 sent, 60 ok, 2 throttled, 1 failed, 3 dropped, 9 in flight, 0 waiting; "
        "360 requests/min, 151,000 reserved tokens/min; first token p50 83.1 ms"
    )


NOW = {"requests_per_s": 5.9, "ttft_p95_ms": 201.0, "itl_p50_ms": 20.1, "errors": {"429 token_limit": 2, HOSTILE: 1}}
FULL = NOW | {"budget": {"usd": {"used": 0.12, "limit": 5.0}, "requests": {"used": 70, "limit": 100}}}


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_shows_what_is_now_what_is_left_and_what_failed(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", watched(console, progress(12.0, **FULL)))
    drawn = text.partition("╭")[2].partition("╯")[0]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", drawn)
    assert max(len(line) for line in drawn.splitlines()) <= width
    words = squeezed(drawn.replace("│", " "))
    for said in (
        "12 of 60 s, 48 s left",
        "151,000 of 200,000 per minute, 75.5 %",
        "$0.12 of $5.00, 97.6 % left",
        "70 of 100 requests, 30.0 % left",
        "5.90 requests/s; 9 in flight, 0 waiting for the quota",
        "first token p50 83.1 ms, p95 201 ms; between tokens p50 20.1 ms",
        "70 sent: 60 ok, 2 throttled, 1 failed, 3 dropped; 12,345 tokens",
        "429 token_limit (2)",
    ):
        assert said in words, said


def test_after_the_last_arrival_no_time_is_left_and_no_colour_is_needed() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True, no_color=True, legacy_windows=False)
    text = watched(console, progress(61.0, **FULL))
    assert "60 of 60 s, waiting for the last answers" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", text)


def test_a_log_does_not_count_past_the_end() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    assert watched(console, progress(86.0)).startswith("  60 of 60 s: ")


def test_a_title_that_the_border_would_cut_stands_inside_and_one_row_is_called_budget() -> None:
    console = Console(width=60, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    title = "Phi-3-mini-4k-Instruct at https://phi-3.westus3.models.ai.azure.com/v1"
    text = squeezed(
        re.sub(r"\x1b\[[0-9;]*m", "", watched(console, progress(12.0, **FULL), title=title)).replace("│", " ")
    )
    drawn = text.partition("╭")[2].partition("╯")[0]
    assert title.replace(" ", "") in drawn.replace(" ", "") and drawn.count("budget") == 1


def test_a_log_says_the_latencies_and_errors_that_it_knows_of() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    text = watched(console, progress(5.0, **FULL))
    assert "; first token p50 83.1 ms, p95 201 ms; between tokens p50 20.1 ms; budget: $0.12 of $5.00, 70 of " in text
    assert "; errors: 429 token_limit (2), " in text and "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_gauges_of_both_limits_and_is_left_clean(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", watched(console, progress(12.0), title=HOSTILE))
    for words in ("12 of 60 s", "151,000 of 200,000 per minute, 75.5 %", "360 of 1,000 per minute", "2 throttled"):
        assert words in text
    drawn = text.partition("╭")[2].partition("╯")[0]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", drawn)
    assert max(len(line) for line in drawn.splitlines()) <= width
    assert text.endswith("\x1b[1A\x1b[2K" * len(drawn.splitlines()))  # each line is erased in the end


def test_before_the_first_token_no_latency_is_claimed() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    assert "first token p50 –" in watched(console, progress(0.0, ttft_p50_ms=None))
