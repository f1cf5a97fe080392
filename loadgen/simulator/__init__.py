"""A simulated serverless or managed deployment on loopback, to run against without an account or a bill.

It speaks the Azure AI Model Inference API (/info, /chat/completions, /completions, /embeddings, /images/embeddings; all
of it under /models too) and the OpenAI dialect (under /v1, /openai/v1 and /openai/deployments/NAME). Serverless, it
enforces a quota by loadgen.quota and answers with the latencies of a stated model (serverless.py, serving.py); managed,
it is a model of its instances (managed.py drives endpoint.py, fleet.py and batching.py). Each model of models.py does
what the real one does; what it cannot do is answered 422 `parameter_not_supported`, as a picture for a text model is:
the documents show that body for what a model cannot take, and none for pictures. Known differences from a real
deployment:

- Words are drawn, not written by a model; each content chunk is one token, and one token is one three-letter word.
  Log probabilities (logprobs.py), embeddings (embeddings.py) and the arguments of tool calls (schemas.py) follow stated
  rules, and so does the content filter (safety.py).
- Prompt tokens are counted by loadgen.tokens, the rule that clients estimate by, not by a tokenizer.
- The request header `x-headroom-completion-tokens: N` sets the length that is generated (`max_tokens` and the context
  still cut it), so that a replayed trace gets the completions of the trace. Without it lengths are drawn. Tool calls
  and JSON of a given schema are as long as they are.
- Errors have the layouts of the Azure API in the OpenAI dialect too.
"""
