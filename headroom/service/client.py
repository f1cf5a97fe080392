"""The service as the commands ask it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from headroom.service.documents import JobAnswer, JobList, JobShown, ScheduleList, Submitted
from headroom.service.launching import TOKEN_VARIABLE
from headroom.service.once import HEADER as IDEMPOTENCY_KEY
from headroom.service.once import fresh_key
from headroom.service.shelf import NAME
from loadgen.errors import ConfigError, HeadroomError

PATIENCE_S, LOOK_EVERY_S = 30.0, 1.0
AWAY_AT_MOST_S = 120.0  # a service that is restarted keeps its jobs
REFUSED, FAILED = 4, 5  # hundreds of statuses
WHOLE_S = 45.0  # a submission that is taken and not answered, however often it is asked for
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before it is asked again: a service that was killed starts within these
BROKEN = (httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT)  # a proxy's
MOST_JOBS = 200


class Client:
    """Raises ConfigError for what the service refuses, with its message, and HeadroomError where none answers."""

    def __init__(self, server: str, token: str | None) -> None:
        if not _is_address(server):
            raise ConfigError(f"--server: {server!r} is no address; write it like http://127.0.0.1:8089")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._has_token = token is not None
        self.server = server.rstrip("/")
        self._http = httpx.Client(base_url=self.server, headers=headers, timeout=PATIENCE_S, trust_env=False)

    def submit(self, job: dict[str, Any]) -> dict[str, Any]:
        """`{"job": ...}` or `{"schedule": ...}`. Where its answer is lost it is asked for again, and made once."""
        made = self._ask_until_told("POST", "/api/jobs", Submitted, json=job, headers={IDEMPOTENCY_KEY: fresh_key()})
        if made.get("job") is None and made.get("schedule") is None:
            raise self._stranger()
        return made

    def jobs(self) -> list[dict[str, Any]]:
        """Those that run, which may be older than many that wait, and then the others, the newest first."""
        running, others = (
            self._ask("GET", "/api/jobs", JobList, params=params)["jobs"]
            for params in ({"state": ["running"]}, {"limit": MOST_JOBS})
        )
        known = {job["id"] for job in running}
        return [*running, *(job for job in others if job["id"] not in known)]

    def job(self, job_id: str) -> dict[str, Any]:
        """`{"job", "about", "progress", "log"}`."""
        return self._ask("GET", f"/api/jobs/{_checked(job_id)}", JobShown)

    def schedules(self) -> list[dict[str, Any]]:
        """By when they are due next."""
        found: list[dict[str, Any]] = self._ask("GET", "/api/schedules", ScheduleList)["schedules"]
        return found

    def cancel(self, known_id: str) -> str:
        """A job, or a schedule: the state that it is in now, or `deleted`."""
        _checked(known_id)
        if any(schedule["id"] == known_id for schedule in self.schedules()):
            self._ask("DELETE", f"/api/schedules/{known_id}")
            return "deleted"
        return str(self._ask("DELETE", f"/api/jobs/{known_id}", JobAnswer)["job"]["state"])

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

    def _ask_until_told(self, *asked: Any, **content: Any) -> dict[str, Any]:
        """Who may have done it and did not say so is asked again; who was not there at first is not."""
        broken, until_s = False, time.monotonic() + WHOLE_S
        for wait_s in (*WAITS_S, None):
            left_s = max(until_s - time.monotonic(), 0.001)
            try:
                return self._ask(*asked, timeout=min(PATIENCE_S, left_s), **content)
            except ServiceAway as error:
                broken = broken or isinstance(error, ServiceBroken)
                if not broken:
                    raise
                if wait_s is None or time.monotonic() + wait_s >= until_s:
                    raise ServiceAway(f"{error}; look at `headroom jobs`: it may have been queued") from None
            time.sleep(wait_s)
        raise AssertionError("the last one returns or raises")

    def _ask(self, method: str, path: str, gives: type[BaseModel] | None = None, **content: Any) -> dict[str, Any]:
        """`gives`: what the answer must be; of a newer service it may say more."""
        try:
            answer = self._http.request(method, path, **content)
        except httpx.LocalProtocolError:  # whose words may hold the token
            raise ConfigError("the request cannot be sent: look at --server and the token") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServiceAway(f"no service answers at {self.server} ({error}): is `headroom serve` running?") from None
        except httpx.RequestError as error:
            raise ServiceBroken(f"{self.server} has not answered ({error or type(error).__name__})") from None
        if answer.status_code == httpx.codes.NO_CONTENT and gives is None:
            return {}
        try:
            body = answer.json()
            if answer.status_code < REFUSED * 100 and gives is not None:
                gives.model_validate(body, extra="ignore")
        except (ValueError, ValidationError):
            body = None
        if answer.status_code >= FAILED * 100:
            away = ServiceBroken if answer.status_code in BROKEN else ServiceAway
            raise away(f"{self.server} answers with {answer.status_code}: {_placed(body)}")
        if not isinstance(body, dict):
            raise self._stranger(answer.status_code)
        if answer.status_code >= REFUSED * 100:
            hint = "" if answer.status_code != httpx.codes.UNAUTHORIZED else self._hint
            raise ConfigError(f"{_placed(body)}{hint}")
        return body

    @property
    def _hint(self) -> str:
        return f"; {TOKEN_VARIABLE} holds another" if self._has_token else f"; set {TOKEN_VARIABLE}"

    def _stranger(self, status: int = 200) -> HeadroomError:
        return HeadroomError(f"{self.server} answers with {status}, and is no service of Headroom's")


class ServiceAway(HeadroomError):  # noqa: N818 - it may come back
    """Nothing answers at the address, or only that it cannot now."""


class ServiceBroken(ServiceAway):
    """The connection, or one of a proxy before it, ended without an answer: what was asked for may have been done."""


def _is_address(server: str) -> bool:
    try:
        return server.startswith(("http://", "https://")) and bool(httpx.URL(server).host)
    except httpx.InvalidURL:
        return False


def _checked(known_id: str) -> str:
    """As ids are written. Raises ConfigError."""
    if not NAME.fullmatch(known_id):
        raise ConfigError(f"{known_id!r} is no id of a job; `headroom jobs` lists them")
    return known_id


def _placed(body: object) -> str:
    """The message of a refusal, behind the field that it is about; a configuration's names its own."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "it does not say why"
    where, message = error.get("where"), str(error.get("message", "it does not say why"))
    return message if where in (None, "config", "id", "authorization") else f"{where}: {message}"
