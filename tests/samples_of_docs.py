"""The samples of the documentation, taken out of its pages: nothing of them is retyped here.

A page shows the same steps in several languages ("pivots"). Python blocks are run as they stand, in order, in one
namespace; of JavaScript and C# blocks the requests are read out; a REST block is a request or an answer.
"""

import ast
import json
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "shared" / "docs"
PAGES = {
    "S0": "phi-3-deploy-and-use.md",
    "S1": "phi-3-use-cost-and-quotas.md",
    "S2": "model-inference-api-reference.md",
    "S3": "model-inference-develop-chat.md",
    "S4": "phi-3-vision.md",
}
PIVOT = re.compile(r'::: zone pivot="programming-language-(\w+)"|# \[.*\]\(#tab/(python|javascript|csharp|rest)\)')
FENCE = re.compile(r"\s*```(\S*)")
HEADING = re.compile(r"##+ (.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. `line` is that of its opening fence, from 1; `language` what the fence says, in lower case."""

    page: str
    pivot: str
    heading: str
    language: str
    line: int
    text: str


@dataclass(slots=True, kw_only=True)
class Exchange:
    """A request of a sample, and the bodies that the page shows in answer to it (of a stream: first and last chunk)."""

    page: str
    heading: str
    line: int
    method: str = "POST"
    path: str = "/chat/completions"
    headers: dict = field(default_factory=dict)
    body: dict | None = None
    answers: list = field(default_factory=list)

    def __str__(self):
        return f"{self.page}-{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """Text of a page that must read otherwise, and what happens where it does not. `fact` numbers azure-facts.md."""

    page: str
    pivot: str
    fact: int | None  # None: seen only when it was run
    before: str
    after: str
    times: int = 1
    fails: type[Exception] = AssertionError

    def __str__(self):
        return f"{self.page}-{self.pivot}-{self.before.split(chr(10))[0].strip()[:40]}"


def adapted_blocks(page, pivot, adaptations):
    """The blocks of one pivot, in order, with the adaptations of that pivot made."""
    found = [block for block in all_blocks(page) if block.pivot == pivot]
    for row in adaptations:
        if (row.page, row.pivot) == (page, pivot):
            found = [replace(block, text=block.text.replace(row.before, row.after)) for block in found]
    return found


@cache
def all_blocks(page):
    """Every fenced block of a page."""
    found, pivot, heading, fence = [], "", "", None
    lines = (DOCS / PAGES[page]).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if edge := FENCE.match(line):
            if fence is None:
                fence = number, edge[1].lower()
            else:
                text = "\n".join(lines[fence[0] : number - 1]) + "\n"
                found.append(
                    Block(page=page, pivot=pivot, heading=heading, language=fence[1], line=fence[0], text=text)
                )
                fence = None
        elif fence is None and (mark := PIVOT.match(line)):
            pivot = mark[1] or mark[2]
        elif fence is None and (mark := HEADING.match(line)):
            heading = mark[1]
    return found


# Python


def run_block(block, text, namespace):
    """Run a block as a notebook does: returns the value of its last expression. Errors name the page and its line."""
    tree = ast.parse(text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    ast.increment_lineno(tree, block.line)
    exec(compile(tree, PAGES[block.page], "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), f"{PAGES[block.page]} at {block.line}", "eval"), namespace)


# REST


def rest_exchanges(page, adaptations=()):
    """A block with `messages` is a request; others answer the request above them. Its head is the HTTP block above."""
    found, head = [], None
    for block in adapted_blocks(page, "rest", adaptations):
        if head is not None and head.heading != block.heading:
            found.append(_exchange(head, head))  # a head alone: the least that can be sent with it (fact 15)
            found[-1].body, head = {"messages": [{"role": "user", "content": "hello"}]}, None
        if block.language.startswith("http"):
            head = block
            continue
        content = json.loads(re.sub(r",(\s*[}\]])", r"\1", block.text))  # fact 37
        if "messages" in content or "model_name" in content:
            found.append(_exchange(block, head))
            found[-1].body, found[-1].answers = (content, []) if "messages" in content else (None, [content])
            head = None
        elif content.get("type") != "function":  # fact 39: the tool alone, before the request with it
            found[-1].answers.append(content)
    return found


def _exchange(block, head):
    if head is None:
        info = {"method": "GET", "path": "/info"} if "model_name" in block.text else {}
        return Exchange(page=block.page, heading=block.heading, line=block.line, **info)
    first, *fields = head.text.splitlines()
    method, path = first.split()[:2]
    headers = dict(line.split(": ", 1) for line in fields)
    headers = {name: value for name, value in headers.items() if name not in ("Host", "Authorization")}
    return Exchange(page=block.page, heading=block.heading, line=block.line, method=method, path=path, headers=headers)


# JavaScript

JS_TOKEN = re.compile(
    r"""("(?:[^"\\]|\\.)*")      # a string stays
    | (\w+)(?=\s*:)              # a key gets quotes
    | \b(true|false|null)\b""",
    re.VERBOSE,
)
JS_CONSTANTS = {"true": "True", "false": "False", "null": "None"}


def javascript_exchanges(page, adaptations, known):
    """What the blocks post, with the variables they name; `known` are those that a block does not write as a literal."""
    found, names = [], dict(known)
    for block in adapted_blocks(page, "javascript", adaptations):
        for call in re.finditer(
            r"(?:var|const) (\w+) = (?=[\[{])|client\.path\(\"/?([\w/]+)\"\)\.(get|post)\(", block.text
        ):
            if call[1]:
                names[call[1]] = _javascript_value(block.text[call.end() :], names)
                continue
            exchange = Exchange(
                page=page, heading=block.heading, line=block.line, method=call[3].upper(), path="/" + call[2]
            )
            if call[3] == "post":
                options = _javascript_value(block.text[call.end() :], names)
                exchange.body = options.pop("body")
                exchange.headers = options.pop("headers", {})
            found.append(exchange)
    return found


def _javascript_value(text, names):
    """The literal that `text` begins with: written as Python, it is the same but for keys and constants."""
    depth = 0
    for mark in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
        if depth == 0:
            break
    literal = text[: mark.end()]
    python = JS_TOKEN.sub(lambda m: m[1] or (f'"{m[2]}"' if m[2] else JS_CONSTANTS[m[3]]), literal)
    return eval("(" + python + ")", {}, names)


# C#

CS_STRING = r'"(?:[^"\\]|\\.)*"'
CS_NUMBERS = {
    "PresencePenalty": "presence_penalty",
    "FrequencyPenalty": "frequency_penalty",
    "MaxTokens": "max_tokens",
    "Temperature": "temperature",
    "NucleusSamplingFactor": "top_p",
}
CS_TURN = re.compile(
    rf"new ChatRequest(System|User)Message\(\s*((?:{CS_STRING}[\s+]*)+|\[.*?\])\s*\)[,\s]*[}}\]);\n]", re.DOTALL
)


def csharp_exchanges(page, data_url, tool):
    """What the blocks complete; `tool` is the function definition, which C# builds by reflection."""
    found = []
    for block in adapted_blocks(page, "csharp", ()):
        text = re.sub(r"^\s*//.*\n", "", block.text, flags=re.MULTILINE)
        exchange = Exchange(page=page, heading=block.heading, line=block.line)
        if "client.GetModelInfo()" in text:
            exchange.method, exchange.path = "GET", "/info"
        elif "new ChatCompletionsOptions(" in text:
            exchange.body = _csharp_body(text, data_url)
            if "Tools.Add(" in text:
                exchange.body |= {"tools": [tool], "tool_choice": "auto"}
        elif "client.Complete(requestOptions)" in text:  # once more, with what was added to the messages meanwhile
            exchange.body = found[-1].body
        else:
            continue
        if "ExtraParameters.PassThrough" in text:
            exchange.headers["extra-parameters"] = "pass-through"
        found.append(exchange)
    return found


def _csharp_body(text, data_url):
    body = {"messages": [_csharp_turn(kind.lower(), content, data_url) for kind, content in CS_TURN.findall(text)]}
    for name, key in CS_NUMBERS.items():
        if value := re.search(rf"{name}\s*=\s*([\d.]+)", text):
            body[key] = json.loads(value[1])
    if stop := re.search(rf"StopSequences = {{ ({CS_STRING}) }}", text):
        body["stop"] = [json.loads(stop[1])]
    if form := re.search(r"ResponseFormat = new ChatCompletionsResponseFormat(\w+)\(", text):
        body["response_format"] = {"type": {"Text": "text", "JSON": "json_object"}[form[1]]}
    if extra := re.search(rf"AdditionalProperties = {{ {{ ({CS_STRING}), BinaryData.FromString\(\"(\w+)\"\)", text):
        body[json.loads(extra[1])] = json.loads(extra[2])
    return body | ({"stream": True} if "CompleteStreamingAsync" in text else {})


def _csharp_turn(role, content, data_url):
    said = "".join(json.loads(part) for part in re.findall(CS_STRING, content))
    if content.startswith("["):
        image = {"type": "image_url", "image_url": {"url": data_url}}
        return {"role": role, "content": [{"type": "text", "text": said}, image]}
    return {"role": role, "content": said}
