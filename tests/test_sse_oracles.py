"""Two clients that others use read the same streams: they agree with ours, or the corpus says why they do not."""

import contextlib
import json

import httpx
import httpx_sse
import openai
import pytest

from loadgen.samples import Outcome
from tests.servers import Server
from tests.sse_corpus import CORPUS
from tests.test_sse import CUTTINGS, framed, parse

BY_NAME = {row.says: row for row in CORPUS}


def refused(row):
    """Whether ours reads no event of it at all."""
    return bool(row.encoding) or row.content_type != "text/event-stream"


def read_by_httpx_sse(row, pieces):
    """The data of its events, up to where it gives up."""
    headers = {"content-type": row.content_type} | ({"content-encoding": row.encoding} if row.encoding else {})
    source = httpx_sse.EventSource(httpx.Response(200, headers=headers, content=iter(pieces)))
    events = []
    with contextlib.suppress(httpx_sse.SSEError, httpx.DecodingError):
        events += ((each.event.removeprefix("message"), each.data) for each in source.iter_sse())
    return events


@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row.says)
def test_httpx_sse_reads_the_same_events_or_the_corpus_says_why_not(row, cutting):
    for pieces in CUTTINGS[cutting](row.stream):
        ours = [] if refused(row) else parse(pieces)[0]
        assert (read_by_httpx_sse(row, pieces) == ours) == (not row.httpx_sse)


@pytest.fixture(scope="module")
def client():
    async def play(call, writer):
        row = BY_NAME[json.loads(call.body)["model"]]
        writer.write(framed(row, "chunked"))
        if row.cut:
            writer.close()

    with Server(play) as server, openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=20) as each:
        yield each


def read_by_openai(client, row):
    """Text, usage and finish reason of the first choice, and whether the client raised."""
    text, usage, finish = "", (None, None), None
    try:
        request = {"model": row.says, "messages": [{"role": "user", "content": "hello"}], "stream": True}
        for chunk in client.chat.completions.create(**request):
            if chunk.usage is not None:
                usage = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            for choice in chunk.choices or []:
                if not choice.index:
                    text += (choice.delta and choice.delta.content) or ""
                finish = choice.finish_reason or finish
    except Exception:  # whatever it is, its user has no answer
        return text, usage, finish, True
    return text, usage, finish, False


@pytest.mark.parametrize("row", [row for row in CORPUS if row.ends], ids=lambda row: row.says)
def test_the_openai_client_reads_the_same_answer_or_the_corpus_says_why_not(client, row):
    text, usage, finish, raised = read_by_openai(client, row)
    failed = row.verdict[0] is Outcome.BROKEN_STREAM
    agrees = (raised, text) == (failed, row.text) and (failed or (usage, finish) == (row.usage, row.finish))
    assert agrees == (not row.openai)
