"""What users do: Locust users, one workload a file.

Each runs under `headroom run --scenario NAME`, and under plain `locust -f scenarios/NAME.py --host URL`.
"""

PLACES = {
    "chat": "scenarios.chat:Chat",
    "streaming": "scenarios.streaming:Streaming",
    "vision": "scenarios.vision:Vision",
}
