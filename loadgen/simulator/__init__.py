"""A simulated serverless or managed deployment on loopback, to run against without an account or a bill.

It speaks the Azure AI Model Inference API (`/info`, `/chat/completions`) and the OpenAI dialect
(`/v1/chat/completions`), enforces a quota by loadgen.quota, and answers with the latencies of a stated serving model
(serving.py). Known differences from a real deployment:

- Words are drawn, not written by a model; each content chunk is one token, and one token is one three-letter word.
- Prompt tokens are counted by loadgen.tokens, the rule that clients estimate by, not by a tokenizer.
- Every simulated model answers images. Of the real ones only those with `vision` in their name do: Phi-3-mini, the
  default here, refuses them.
- The request header `x-headroom-completion-tokens: N` sets the length that is generated (`max_tokens` and the context
  still cut it), so that a replayed trace gets the completions of the trace. Without it lengths are drawn.
- A parameter that the API does not define is ignored, whatever the header `extra-parameters` says.
"""
