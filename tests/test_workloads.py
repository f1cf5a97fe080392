"""What is asked, without any load: lengths, prompts, bodies and heads, and what is kept of an answer."""

import json
import statistics
from pathlib import Path
from random import Random
from types import SimpleNamespace

import orjson
import pytest
from PIL import Image

from loadgen.answers import KEPT_BYTES, Answer, answer_of_body, answer_of_events
from loadgen.config import RunConfig, TargetConfig, TimeoutConfig
from loadgen.endpoint import Endpoint
from loadgen.errors import ConfigError
from loadgen.kept import KeepingReader, fault_of, reader_for
from loadgen.lengths import MOST_TOKENS, parse_lengths, read_lengths
from loadgen.loadtest import load_config
from loadgen.prompts import Prompts
from loadgen.prompts_config import PromptsConfig
from loadgen.requests import Route, chat, completion, embedding, image_embedding
from loadgen.schedule import Arrival
from loadgen.target import address_of
from loadgen.tokens import image_tokens, prompt_tokens, text_tokens
from loadgen.wire import ResponseReader
from tests.servers import ANSWER, response
from tests.simulators import data_url

USER = [{"role": "user", "content": "hello"}]
DISTRIBUTIONS = ["fixed:200", "uniform:50..400", "normal:200,50", "lognormal:200,0.5", "normal:0,3", "file:lengths.txt"]


@pytest.fixture
def lengths_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lengths.txt").write_text("7\n7\n7\n900\n\n")
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens\n0,12\n1,34\n")


def drawn(text, n=4_000):
    lengths, random = read_lengths(text), Random(5)
    return [lengths.draw(random) for _ in range(n)]


def test_lengths_are_distributed_as_written(lengths_file):
    assert set(drawn("fixed:200")) == {200}
    uniform = drawn("uniform:50..400")
    assert (min(uniform), max(uniform)) == (50, 400) and statistics.fmean(uniform) == pytest.approx(225, rel=0.03)
    normal = drawn("normal:200,50")
    assert (statistics.fmean(normal), statistics.stdev(normal)) == pytest.approx((200, 50), rel=0.05)
    assert statistics.median(drawn("lognormal:200,0.5")) == pytest.approx(200, rel=0.05)
    of_file = drawn("file:lengths.txt")
    assert set(of_file) == {7, 900} and of_file.count(7) / len(of_file) == pytest.approx(0.75, abs=0.03)
    assert set(drawn("file:trace.csv,ContextTokens")) == {12, 34}
    assert min(drawn("normal:1,50")) == 1 and max(drawn("lognormal:900000,9")) == MOST_TOKENS


@pytest.mark.parametrize("text", ["200", "fixed:", "fixed:0", "fixed:-3", "uniform:9..5", "uniform:1.5..3", "normal:5",
                                  "lognormal:0,1", "pareto:3,4", "file:", "fixed:nan", "normal:inf,1", "fixed:9e9"])  # fmt: skip
def test_what_is_no_distribution_is_refused_with_its_flag(text):
    with pytest.raises(ConfigError):
        parse_lengths(text)
    with pytest.raises(ConfigError, match=r"--prompt-tokens: "):
        load_config(None, {"prompts.tokens": text}, {})


@pytest.mark.parametrize(
    ("content", "name", "complaint"),
    [
        ("5\nmany\n", "f", "f, line 2: 'many' is not a whole number"),
        ("5\n0\n", "f", "f, line 2: '0'"),
        ("5\n6,7\n", "f", "f, line 2: '6,7'"),
        ("\n", "f", "f holds no lengths"),
        ("a,b\n1,2\n", "f,c", "f, line 1: no column c; it has a, b"),
        ("a,b\n1,2\n3\n", "f,b", "f, line 3: '3'"),
        (None, "f", "f does not exist"),
    ],
)
def test_a_bad_file_of_lengths_is_named_with_its_line(tmp_path, monkeypatch, content, name, complaint):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("f").write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_lengths(f"file:{name}")
    assert str(caught.value).startswith(complaint)


# Prompts


def prompts(**config):
    return Prompts(PromptsConfig.model_validate(config), max_tokens=128)


def asked(made, seq=3, **how):
    arrival = Arrival(seq, 0, "chat", 1)
    return made.messages(arrival, arrival.random, lambda: [dict(each) for each in USER], **how)


@pytest.mark.parametrize("tokens", DISTRIBUTIONS)
@pytest.mark.parametrize("more", [{}, {"shared_prefix": 0.5}, {"shared_prefix": 1.0}, {"cache_bust": True}])
def test_a_prompt_of_n_tokens_is_n_tokens(lengths_file, tokens, more):
    made = prompts(tokens=tokens, **more)
    for seq in range(60):
        arrival = Arrival(seq, 0, "chat", 1)
        n = made.tokens(arrival)
        assert prompt_tokens(asked(made, seq).messages) == max(n, 5)  # a role counts 4
        assert prompt_tokens(asked(made, seq, ending=" And so on.").messages) == max(n, 5)
        assert prompt_tokens(asked(made, seq, beside_tokens=30).messages) == max(n - 30, 5)
        assert text_tokens(made.plain(arrival, arrival.random, (1, 2))) == n


def test_a_stated_prompt_ends_as_its_scenario_wants():
    assert asked(prompts(tokens="fixed:40"), ending=" In JSON.").messages[0]["content"].endswith(" In JSON.")


def test_the_completions_distribution_is_the_limit_of_each_request():
    made = prompts(completion="uniform:10..99")
    limits = {made.max_tokens(Arrival(seq, 0, "chat", 1)) for seq in range(200)}
    assert min(limits) >= 10 and max(limits) <= 99 and len(limits) > 50
    assert made.max_tokens(Arrival(1, 0, "chat", 1, completion_tokens=7)) == 7  # a trace's own goes first
    assert prompts().max_tokens(Arrival(1, 0, "chat", 1)) == 128


def test_a_shared_prefix_is_the_same_in_all_prompts_and_the_rest_is_not():
    made = prompts(tokens="uniform:100..300", shared_prefix=0.5)
    texts = [asked(made, seq).messages[0]["content"] for seq in range(50)]
    longest = max(texts, key=len)
    for text in texts:
        half = round(len(text) // 4 * 0.5) * 4
        assert text[:half] == longest[:half]
    assert len({text[len(text) // 2 + 4 :][:40] for text in texts}) == 50
    of_replay = Arrival(3, 0, "chat", 1)  # by its own seed, whatever that of the run which replays it
    other = made.messages(Arrival(3, 0, "chat", 2), of_replay.random, list).messages[0]["content"]
    assert other[:200] != longest[:200]
    assert made.messages(of_replay, of_replay.random, list).messages[0]["content"] == texts[3]


def test_a_traces_messages_are_asked_whatever_the_scenario():
    """Also those that say nothing: calls of tools have no content."""
    picture = {"type": "image_url", "image_url": {"url": data_url(640, 480)}}
    said = [{"role": "assistant"}, {"role": "user", "content": [{"type": "text", "text": "two"}, picture]}]
    arrival = Arrival(3, 0, "chat", 1, 500, messages=said)
    assert prompts(tokens="fixed:9").messages(arrival, arrival.random, list) == (said, ((640, 480),))
    assert prompts().plain(arrival, arrival.random, (1, 2)) == "two"
    first, *rest = prompts(cache_bust=True).messages(arrival, arrival.random, list).messages
    assert len(first["content"]) == 16 and rest == said[1:]


@pytest.mark.parametrize("config", [{"tokens": "fixed:50", "cache_bust": True}, {"cache_bust": True}])
def test_cache_busting_begins_each_prompt_with_a_line_of_its_own(config):
    firsts = [asked(prompts(**config), seq).messages[0]["content"].split("\n")[0] for seq in range(200)]
    assert len(set(firsts)) == 200 and all(len(first) == 15 for first in firsts)
    assert firsts[3] == asked(prompts(**config)).messages[0]["content"].split("\n")[0]  # the seed repeats it


def test_pauses_between_turns_are_exponential_of_the_stated_mean():
    pauses_s = [prompts(turn_pause=2).pause_s(Arrival(seq, 0, "chat", 1)) for seq in range(3_000)]
    assert (statistics.fmean(pauses_s), statistics.stdev(pauses_s)) == pytest.approx((2, 2), rel=0.06)
    assert prompts(turn_pause=0).pause_s(Arrival(1, 0, "chat", 1)) == 0


def test_own_prompts_are_drawn_by_the_seed_with_their_pictures_counted(tmp_path):
    picture = {"type": "image_url", "image_url": {"url": data_url(640, 480)}}
    lines = [{"prompt": "one"}, {"messages": [{"role": "user", "content": [{"type": "text", "text": "two"}, picture]}]}]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    made = prompts(file=file)
    seen = [asked(made, seq) for seq in range(40)]
    assert {prompt.images for prompt in seen} == {(), ((640, 480),)}
    assert seen == [asked(prompts(file=file), seq) for seq in range(40)]
    assert {made.plain(Arrival(seq, 0, "c", 1), Random(1), (1, 2)) for seq in range(40)} == {"one", "two"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2: write "),
        ('{"messages": []}', "line 2: write "),
        ('{"messages": [{"role": "user"}]}', "line 2: write "),
        ('{"prompt": ""}', "line 2: write "),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,eA=="}}]}]}',
         "line 2: its picture is neither a JPEG nor a PNG"),
    ],
)  # fmt: skip
def test_a_bad_line_of_own_prompts_is_named(tmp_path, line, complaint):
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(ConfigError) as caught:
        prompts(file=file)
    assert str(caught.value).startswith(f"{file}, {complaint}")


def test_own_pictures_come_from_a_folder_and_a_bad_one_is_named(tmp_path):
    for number, size_px in enumerate([(20, 30), (40, 10)]):
        Image.new("RGB", size_px).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    made = prompts(images=tmp_path)
    assert {made.picture(Random(seed)).size_px for seed in range(20)} == {(20, 30), (40, 10)}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.jpg").write_text("no picture")
    for folder, complaint in ((tmp_path / "sub", "x.jpg is neither"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ConfigError, match=complaint):
            prompts(images=folder)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"prompts": {"shared_prefix": 0.5}}, "give prompts.tokens or load.trace"),
        ({"prompts": {"shared_prefix": 0.5, "cache_bust": True, "tokens": "fixed:9"}}, "exclude each other"),
        ({"prompts": {"file": "x", "tokens": "fixed:9"}}, "exclude each other"),
        ({"parameters": {"max_tokens": 5}}, "max_tokens: set by Headroom itself"),
    ],
)
def test_prompts_that_contradict_themselves_are_refused(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        RunConfig.model_validate(values)


def test_a_later_turn_draws_from_its_session_and_the_first_as_it_always_did():
    first, later = Arrival(7, 0, "c", 1), Arrival(900, 0, "c", 1, session=7, turn=1)
    assert first.random.random() == Random("1/7").random()
    assert later.random.random() == Arrival(555, 0, "c", 1, session=7, turn=1).random.random()
    draws = {first.random.random(), later.random.random(), first.random_for("x").random()}
    assert len(draws) == 3


# Bodies and heads


def sent(spec, **target):
    parameters = target.pop("parameters", {})
    config = TargetConfig(url="http://127.0.0.1:9", **target)
    endpoint = Endpoint(address_of(config.url), config, TimeoutConfig(), None, 0, model="phi", parameters=parameters)
    try:
        head, _, body = endpoint.encode(spec, "abc-1-0").partition(b"\r\n\r\n")
    finally:
        endpoint.close()
    request, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return SimpleNamespace(path=request.split(" ")[1], headers=headers, body=orjson.loads(body))


@pytest.mark.parametrize(
    ("spec", "path", "field"),
    [
        (chat("s", USER, max_tokens=9), "/chat/completions", "messages"),
        (completion("s", "go on", max_tokens=9), "/completions", "prompt"),
        (embedding("s", ["a", "b"]), "/embeddings", "input"),
        (image_embedding("s", ["data:,"]), "/images/embeddings", "input"),
    ],
    ids=list(Route),
)
def test_each_route_has_its_path_and_body_in_both_dialects(spec, path, field):
    azure, openai = sent(spec), sent(spec, dialect="openai")
    assert azure.path == f"{path}?api-version=2024-05-01-preview" and openai.path == f"/v1{path}"
    assert azure.body == orjson.loads(spec.body) and field in azure.body
    assert openai.body == azure.body | {"model": "phi"}
    assert azure.headers["x-ms-client-request-id"] == "abc-1-0" and azure.headers["Accept"] == "application/json"


def test_usage_of_a_stream_is_asked_for_in_the_openai_dialect_alone():
    spec = chat("s", USER, max_tokens=9, stream=True)
    assert "stream_options" not in sent(spec).body and sent(spec).headers["Accept"] == "text/event-stream"
    assert sent(spec, dialect="openai").body["stream_options"] == {"include_usage": True}


def test_parameters_go_where_their_route_has_them_and_unknown_ones_everywhere():
    parameters = {"temperature": 0.2, "dimensions": 64, "response_format": {"type": "text"}, "safe_mode": True}
    specs = (chat("s", USER, max_tokens=9), completion("s", "x", max_tokens=9), embedding("s", ["x"]))
    found = [sent(spec, parameters=parameters).body.keys() & parameters.keys() for spec in specs]
    everywhere = {"safe_mode"}
    assert found == [
        {"temperature", "response_format"} | everywhere,
        {"temperature"} | everywhere,
        {"dimensions"} | everywhere,
    ]


def test_the_header_for_extra_parameters_is_the_azure_dialects():
    spec = chat("s", USER, max_tokens=9, extra={"top_k": 5})
    azure = sent(spec, extra_parameters="pass-through")
    assert azure.headers["extra-parameters"] == "pass-through" and azure.body["top_k"] == 5
    assert "extra-parameters" not in sent(spec).headers
    assert "extra-parameters" not in sent(spec, extra_parameters="drop", dialect="openai").headers


# Answers


def read(spec, payload, pieces=1):
    reader = reader_for(spec)
    step = -(-len(payload) // pieces)
    for at in range(0, len(payload), step):
        reader.feed(payload[at : at + step], 1_000)
    reader.release()
    return reader


def test_answers_are_kept_only_for_those_who_ask():
    kept = read(chat("s", USER, max_tokens=9, keep_answer=True), response(ANSWER))
    assert kept.verdict()[0] == "ok" and kept.answer().message == {"role": "assistant", "content": "hi"}
    assert type(reader_for(chat("s", USER, max_tokens=9))) is ResponseReader


def test_a_streams_text_and_tool_calls_are_put_together():
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    deltas = [{"role": "assistant", "content": "a"}, {"content": "b"}, {"content": None, "tool_calls": [call]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"x"', ": 1}")]
    events = [{"choices": [{"delta": delta}]} for delta in deltas]
    events += [{"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}, {"choices": [], "usage": {}}]
    lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    payload = response(lines.encode(), content_type="text/event-stream")
    answer = read(chat("s", USER, max_tokens=9, stream=True, keep_answer=True), payload, pieces=9).answer()
    assert (answer.content, answer.finish_reason) == ("ab", "tool_calls")
    (found,) = answer.message["tool_calls"]
    assert found == {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"choices": []}', b'{"choices": [{"message": 5}]}',
                                  b'{"choices": [{"message": {"content": 5, "tool_calls": [{"function": 1}]}}]}'])  # fmt: skip
def test_an_answer_that_says_nothing_is_empty_and_raises_nothing(body):
    assert answer_of_body(body, None) == answer_of_events([body], None) == Answer()


def test_what_is_kept_of_a_stream_is_bounded():
    reader = KeepingReader(stream=True)
    for _ in range(40):
        reader._read_event(b'{"choices": [{"delta": {"content": "%b"}}]}' % (b"x" * (KEPT_BYTES // 20)))
    assert len(reader.answer().content) < KEPT_BYTES and reader.chunks == 40


def test_a_check_says_what_is_wrong_and_fails_without_losing_the_row():
    reader = read(chat("s", USER, max_tokens=9, keep_answer=True), response(ANSWER))
    assert fault_of(lambda answer: None if answer.content == "hi" else "rude", reader) is None
    assert fault_of(lambda answer: "too\x1b[31m short", reader) == "too [31m short"
    assert fault_of(lambda answer: answer.nothing, reader) == "check_raised_AttributeError"


@pytest.mark.parametrize(
    ("spec", "body", "verdict"),
    [
        (embedding("s", ["x"]), {"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 3}}, ("ok", None)),
        (embedding("s", ["x"]), {"data": []}, ("broken_stream", "not_an_embedding")),
        (embedding("s", ["x"]), {"choices": [{"message": {}}]}, ("broken_stream", "not_an_embedding")),
        (embedding("s", ["x"]), {"error": {"code": "oops"}}, ("broken_stream", "error_in_answer: oops")),
        (chat("s", USER, max_tokens=9), {"data": [{"embedding": [1]}]}, ("broken_stream", "not_a_chat_completion")),
        (completion("s", "x", max_tokens=9), {"choices": [{"text": "y", "finish_reason": "stop"}]}, ("ok", None)),
        (completion("s", "x", max_tokens=9), {"data": []}, ("broken_stream", "not_a_completion")),
    ],
)
def test_an_answer_is_judged_by_what_was_asked_for(spec, body, verdict):
    reader = read(spec, response(json.dumps(body).encode()))
    assert reader.verdict() == verdict
    if verdict[0] == "ok" and spec.route.embeds:
        assert (reader.prompt_tokens, reader.completion_tokens, reader.finish_reason) == (3, 0, None)


def test_pictures_are_counted_beside_a_stated_length():
    made = prompts(tokens="fixed:3000")
    arrival = Arrival(1, 0, "vision", 1)
    beside = image_tokens(640, 480)
    assert text_tokens(made.plain(arrival, arrival.random, (5, 5), beside_tokens=beside)) == 3_000 - beside
    assert text_tokens(made.plain(arrival, arrival.random, (5, 5), beside_tokens=3_000)) == 5
