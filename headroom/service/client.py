"""The service as the commands ask it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx

from headroom.service.launching import TOKEN_VARIABLE
from loadgen.errors import ConfigError, HeadroomError

PATIENCE_S, LOOK_EVERY_S = 30.0, 1.0
AWAY_AT_MOST_S = 120.0  # a service that is restarted keeps its jobs
REFUSED = 4


class Client:
    """Raises ConfigError for what the service refuses, with its message, and HeadroomError where none answers."""

    def __init__(self, server: str, token: str | None) -> None:
        url = httpx.URL(server) if server.startswith(("http://", "https://")) else None
        if url is None or not url.host:
            raise ConfigError(f"--server: {server!r} is no address; write it like http://127.0.0.1:8089")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._server = server.rstrip("/")
        self._http = httpx.Client(base_url=self._server, headers=headers, timeout=PATIENCE_S, trust_env=False)

    def submit(self, job: dict[str, Any]) -> dict[str, Any]:
        """`{"job": ...}` or `{"schedule": ...}`."""
        return self._ask("POST", "/api/jobs", json=job)

    def jobs(self) -> list[dict[str, Any]]:
        """The newest first."""
        found: list[dict[str, Any]] = self._ask("GET", "/api/jobs")["jobs"]
        return found

    def job(self, job_id: str) -> dict[str, Any]:
        """`{"job", "about", "progress", "log"}`."""
        return self._ask("GET", f"/api/jobs/{quote(job_id, safe='')}")

    def schedules(self) -> list[dict[str, Any]]:
        """By when they are due next."""
        found: list[dict[str, Any]] = self._ask("GET", "/api/schedules")["schedules"]
        return found

    def cancel(self, known_id: str) -> str:
        """A job, or a schedule: the state that it is in now, or `deleted`."""
        if any(schedule["id"] == known_id for schedule in self.schedules()):
            self._ask("DELETE", f"/api/schedules/{quote(known_id, safe='')}")
            return "deleted"
        return str(self._ask("DELETE", f"/api/jobs/{quote(known_id, safe='')}")["job"]["state"])

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job each second, the last time when it has ended; a service that is away for a while is waited for."""
        seen_s = time.monotonic()
        while True:
            try:
                shown = self.job(job_id)
            except ServiceAway:
                if time.monotonic() - seen_s > AWAY_AT_MOST_S:
                    raise
            else:
                seen_s = time.monotonic()
                yield shown
                if shown["job"]["ended_utc"] is not None:
                    return
            time.sleep(LOOK_EVERY_S)

    def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise ServiceAway(f"no service answers at {self._server} ({error}): is `headroom serve` running?") from None
        if answer.status_code == httpx.codes.NO_CONTENT:
            return {}
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise HeadroomError(f"{self._server} answers with {answer.status_code}, and is no service of Headroom's")
        if answer.status_code >= 400:
            refused = body.get("error") or {}
            hint = f"; set {TOKEN_VARIABLE}" if answer.status_code == 401 else ""
            kind = ConfigError if answer.status_code // 100 == REFUSED else HeadroomError
            raise kind(f"{_placed(refused)}{hint}")
        return body


class ServiceAway(HeadroomError):  # noqa: N818 - it may come back
    """Nothing answers at the address."""


def _placed(error: dict[str, Any]) -> str:
    """The message, behind the field that it is about; a configuration's names its own."""
    where, message = error.get("where"), str(error.get("message", "it refuses"))
    return message if where in (None, "config", "id", "authorization") else f"{where}: {message}"
