"""What users do: Locust users, one workload a file.

Each runs under `headroom run --scenario NAME`, and under plain `locust -f scenarios/NAME.py --host URL`.
"""

PLACES = {
    "chat": "scenarios.chat:Chat",
    "streaming": "scenarios.streaming:Streaming",
    "vision": "scenarios.vision:Vision",
    "tools": "scenarios.tools:Tools",
    "json_output": "scenarios.json_output:JsonOutput",
    "completions": "scenarios.completions:Completions",
    "embeddings": "scenarios.embeddings:Embeddings",
    "image_embeddings": "scenarios.image_embeddings:ImageEmbeddings",
    "content_safety": "scenarios.content_safety:ContentSafety",
    "conversation": "scenarios.conversation:Conversation",
    "replay": "scenarios.replay:Replay",
}
