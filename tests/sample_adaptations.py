"""Where the documentation's samples cannot run as they stand, and how they read then.

A fact is numbered as in ../shared/azure-facts.md; a fault without a number was seen only when the sample was run.
"""

import base64
import io

from PIL import Image

from tests.samples_of_docs import Adaptation

CHART_ADDRESS = (
    "https://news.microsoft.com/source/wp-content/uploads/2024/04/"
    "The-Phi-3-small-language-models-with-big-potential-1-1900x1069.jpg"
)


def chart():
    """A JPEG of the size of the chart in the pages."""
    file = io.BytesIO()
    Image.new("RGB", (1900, 1069), "navy").save(file, "JPEG")
    return file.getvalue()


CHART = chart()
CHART_BASE64 = base64.b64encode(CHART).decode()
CHART_URL = "data:image/jpeg;base64," + CHART_BASE64


def rows(pages, pivot, fact, before, after, **rest):
    return [Adaptation(page=page, pivot=pivot, fact=fact, before=before, after=after, **rest) for page in pages.split()]


MODELS = "from azure.ai.inference.models import "
TURNS = MODELS + "AssistantMessage, UserMessage, SystemMessage\n"
STREAMED = "        messages: messages,\n    }\n}).asNodeStream()"
PASS_THROUGH = 'headers: { "extra-parameters": "pass-through" }'
ADAPTATIONS = [
    # with_defaults never existed
    *rows("S0", "python", 6, "ChatCompletionsClient.with_defaults()\n", "", fails=AttributeError),
    # the credential has another name
    *rows("S2", "python", 5, "AzureDefaultCredential", "DefaultAzureCredential", times=2, fails=ImportError),
    # a stream must be asked for
    *rows("S0 S1 S4", "python", 24, "result = model.complete(", "result = model.complete(stream=True, ", fails=AttributeError),
    *rows("S0 S1 S3 S4", "javascript", 24, STREAMED, STREAMED.replace("    }", "    stream: true }", 1)),
    # the client has lost these classes: it takes the word
    *rows("S0 S1 S4", "python", 27, MODELS + "ChatCompletionsResponseFormat\n", "", fails=ImportError),
    *rows("S0 S1 S4", "python", 27, '{ "type": ChatCompletionsResponseFormat.TEXT }', '"text"', fails=NameError),
    *rows("S3", "python", 27, MODELS + "ChatCompletionsResponseFormatText\n", "", fails=ImportError),
    *rows("S3", "python", 27, '{ "type": ChatCompletionsResponseFormatText() }', '"text"', fails=NameError),
    *rows("S3", "python", 27, MODELS + "ChatCompletionsResponseFormatJSON\n", "", fails=ImportError),
    *rows("S3", "python", 27, '{ "type": ChatCompletionsResponseFormatJSON() }', '"json_object"', fails=NameError),
    *rows("S2", "python", 27, ", ChatCompletionsResponseFormatJSON\n", "\n", fails=ImportError),
    *rows("S2", "python", 27, "ChatCompletionsResponseFormatJSON()", '"json_object"', fails=NameError),
    # `detail` is an object, not a list of them
    *rows("S2", "python", 33, 'in response["detail"]:', 'in [response["detail"]]:', fails=TypeError),
    # an image has another key
    *rows("S3 S4", "python", 40, "ImageContentItem(image=", "ImageContentItem(image_url=", fails=TypeError),
    *rows("S3 S4", "javascript", 40, 'type: "image_url", image:', 'type: "image_url", image_url:'),
    *rows("S3 S4", "rest", 41, "0xABCDFGHIJKLMNOPQRSTUVWXYZ...", CHART_BASE64),
    # the header that lets extra parameters pass is missing, misspelled, or no header at all
    *rows("S0", "javascript", 32, "logprobs: true\n    }", "logprobs: true\n    },\n    " + PASS_THROUGH),
    *rows("S1", "javascript", 31, '"extra-params": "passthrough"', '"extra-parameters": "pass-through"'),
    *rows("S3 S4", "javascript", 31, '"extra-params"', '"extra-parameters"'),
    *rows("S2", "javascript", 31, '"extra-parameters": "pass-through"', PASS_THROUGH),
    # a class has another name
    *rows("S3", "python", None, "ChatCompletionsFunctionToolDefinition", "ChatCompletionsToolDefinition", times=2, fails=ImportError),
    # names that are never imported
    *rows("S0 S1", "python", None, TURNS, TURNS + "import json\nfrom azure.core.exceptions import HttpResponseError\n", fails=NameError),
    *rows("S3", "python", None, TURNS, TURNS + "from azure.core.exceptions import HttpResponseError\n", fails=NameError),
    # the function is called by the parameters' names in its definition, which differ
    *rows("S3", "python", None, "loc_origin", "origin_city", times=2, fails=TypeError),
    *rows("S3", "python", None, "loc_destination", "destination_city", times=2, fails=TypeError),
    # no JavaScript: members need a colon
    *(
        row
        for name in ("presence_penalty", "frequency_penalty", "max_tokens", "stop", "temperature", "top_p", "response_format")
        for row in rows("S0 S1", "javascript", None, f"{name} =", f"{name}:", fails=SyntaxError)
    ),
]  # fmt: skip
