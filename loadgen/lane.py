"""The way to one target: its connections, its throttle, and what one attempt on it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic_ns

from gevent import GreenletExit

from loadgen.alarm import Alarm
from loadgen.config import Dialect, Kind, RunConfig, ThrottleMode
from loadgen.connection import Connection
from loadgen.endpoint import Endpoint
from loadgen.errors import ConfigError
from loadgen.proxy import proxy_of
from loadgen.quota import Grant, pacing
from loadgen.refusals import remaining_of
from loadgen.requests import RequestSpec
from loadgen.samples import Outcome, Sample
from loadgen.tally import Tally
from loadgen.target import address_of, check_allowed, check_encrypted, credential_of
from loadgen.throttle import DistantGate, Gate, Throttle
from loadgen.wire import ResponseReader

UNASKED_PAUSE_MS = 1_000  # after a 429 that does not say how long to wait


class Lane:
    """One target as the users of one process reach it."""

    def __init__(
        self,
        config: RunConfig,
        *,
        alarm: Alarm,
        tally: Tally,
        variables: Mapping[str, str],
        model: str | None,
        run_id: str,
    ) -> None:
        address = address_of(config.target.url or "")
        check_allowed(address, config.target.allow_hosts)
        self.config, self.name = config.target, address.origin
        self.model = config.target.model or model
        self.credential = credential_of(config.target, variables)
        check_encrypted(address, self.credential)
        proxy = proxy_of(address, variables)
        self.endpoint = Endpoint(address, config.target, config.timeouts, self.credential, tally.start_ns, proxy)
        mode = config.load.throttle if config.target.kind is Kind.SERVERLESS else ThrottleMode.OFF
        quota = config.quota
        self.throttle: Gate | None = (
            None if mode is ThrottleMode.OFF else Throttle(pacing(quota), alarm, quota.concurrency)
        )
        self.ahead: DistantGate | None = None
        self._feedback = mode is ThrottleMode.FEEDBACK
        self._admission, self._tally, self._id_prefix = quota.admission, tally, run_id[:8]

    @property
    def openai_model(self) -> str | None:
        """The model's name for the openai dialect, else None."""
        return (self.model or "default") if self.config.dialect is Dialect.OPENAI else None

    def cost(self, spec: RequestSpec) -> int:
        """Tokens that the request counts against the quota before its answer is known."""
        return self._admission.cost(prompt_tokens=spec.prompt_tokens, max_tokens=spec.max_tokens)

    def attempt(
        self, sample: Sample, spec: RequestSpec, connection: Connection, wanted_ns: int
    ) -> ResponseReader | None:
        """One attempt, wanted at that instant, and its row. None where it is not made: the quota can never admit it."""
        cost = self.cost(spec)
        try:
            grant = self._admit(sample, cost, wanted_ns - self.endpoint.start_ns)
        except (GreenletExit, ConfigError) as stop:
            if sample.attempt == 0:  # else the arrival has been sent, and its row says what became of it
                why = "never_fits_quota" if isinstance(stop, ConfigError) else "stopped_while_throttled"
                self._tally.drop(sample, why)
            if isinstance(stop, ConfigError):
                return None
            raise
        now_ns = monotonic_ns()
        if now_ns > self.endpoint.send_until_ns:
            self._turn_away(sample, grant)
            return None
        self._tally.note_sent(now_ns - self.endpoint.start_ns, cost)
        try:
            reader = connection.attempt(spec, sample, f"{self._id_prefix}-{sample.seq}-{sample.attempt}")
        except GreenletExit:
            self._tally.add(sample)
            raise
        finally:
            if self.throttle is not None:
                self.throttle.release()
        self._tally.add(sample, reader.gaps_us)
        self._settle(grant, spec, sample, reader)
        return reader

    def _turn_away(self, sample: Sample, grant: Grant | None) -> None:
        """This worker has lost touch with its master, who may count on others by now: it sends nothing."""
        if self.throttle is not None and grant is not None:
            self.throttle.cancel(grant)
            self.throttle.release()
        if sample.attempt == 0:
            self._tally.drop(sample, "lease_ended")

    def admit_elsewhere(self, gate: DistantGate) -> None:
        """From now on the quota is another process's to give, and asked for ahead."""
        self.throttle = self.ahead = gate

    def _admit(self, sample: Sample, cost: int, wanted_ns: int) -> Grant | None:
        sample.reserved_tokens = cost
        sample.admitted_ns = wanted_ns
        if self.throttle is None:
            return None
        asked_ns = monotonic_ns()
        grant = self.throttle.admit(cost)
        # A request that had not to wait was admitted when it was wanted: what delays it from there is our own lateness.
        if grant.at_ns > asked_ns + 1_000_000:
            sample.admitted_ns = grant.at_ns - self.endpoint.start_ns
        return grant

    def _settle(self, grant: Grant | None, spec: RequestSpec, sample: Sample, reader: ResponseReader) -> None:
        if self.throttle is None or grant is None:
            return
        if sample.outcome == Outcome.THROTTLED:
            self.throttle.settle(grant, 0)  # its tokens were not counted; that it asked may have been
        elif sample.sent_ns is None:
            self.throttle.cancel(grant)
        elif sample.prompt_tokens is not None:
            real = self._admission.cost(
                prompt_tokens=sample.prompt_tokens,
                max_tokens=spec.max_tokens,
                completion_tokens=sample.completion_tokens,
            )
            self.throttle.settle(grant, real)
        if self._feedback:
            self._learn(sample, reader)

    def _learn(self, sample: Sample, reader: ResponseReader) -> None:
        assert self.throttle is not None
        if sample.outcome == Outcome.THROTTLED:
            wait_ms = sample.retry_after_ms
            self.throttle.pause(UNASKED_PAUSE_MS if wait_ms is None else wait_ms)
        tokens, requests = remaining_of(reader.headers, b"tokens"), remaining_of(reader.headers, b"requests")
        if tokens is not None or requests is not None:
            self.throttle.observe_remaining(tokens=tokens, requests=requests)
