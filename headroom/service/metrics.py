"""What the service counts, in Prometheus's text format (version 0.0.4)."""

from __future__ import annotations

from headroom.service.desk import Desk
from headroom.service.jobs import State

GAUGES = {  # of a running load test: the metric's name, the key of its progress, what it is
    "headroom_job_in_flight_requests": ("in_flight", "Requests in flight."),
    "headroom_job_sent_requests": ("sent", "Requests sent so far."),
    "headroom_job_ok_requests": ("ok", "Requests answered well so far."),
    "headroom_job_failed_requests": ("failed", "Requests failed so far."),
    "headroom_job_throttled_requests": ("throttled", "Requests answered 429 so far."),
    "headroom_job_tokens_per_minute": ("tokens_per_minute", "Tokens of the last minute."),
    "headroom_job_requests_per_minute": ("requests_per_minute", "Requests of the last minute."),
}


def metrics_of(desk: Desk) -> str:
    """Jobs by state, and of each running load test how far it is."""
    lines = ["# HELP headroom_jobs Jobs by state.", "# TYPE headroom_jobs gauge"]
    lines += [f'headroom_jobs{{state="{state}"}} {n}' for state, n in desk.jobs.counts().items()]
    running = [(job.id, desk.progress(job.id) or {}) for job in desk.jobs.all(states=[State.RUNNING])]
    for metric, (key, meaning) in GAUGES.items():
        lines += [f"# HELP {metric} {meaning}", f"# TYPE {metric} gauge"]
        lines += [f'{metric}{{job="{job_id}"}} {progress[key]}' for job_id, progress in running if key in progress]
    lines += ["# HELP headroom_schedules Schedules.", "# TYPE headroom_schedules gauge"]
    return "\n".join([*lines, f"headroom_schedules {len(desk.jobs.schedules())}"]) + "\n"
