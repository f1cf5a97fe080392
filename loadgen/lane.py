"""The way to one target: its connections, its throttle, and what one attempt on it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic_ns

from gevent import GreenletExit

from loadgen.alarm import Alarm
from loadgen.budget import FREE, Budget, Price
from loadgen.config import Kind, RunConfig, TargetConfig, ThrottleMode
from loadgen.connection import Connection
from loadgen.endpoint import Endpoint
from loadgen.errors import ConfigError
from loadgen.guards import Guards
from loadgen.kept import fault_of
from loadgen.proxy import proxy_of
from loadgen.quota import Grant, pacing
from loadgen.refusals import remaining_of
from loadgen.requests import RequestSpec
from loadgen.samples import OK, Outcome, Sample
from loadgen.tally import Tally
from loadgen.target import address_of, check_allowed, check_encrypted, credential_of
from loadgen.throttle import DistantGate, Gate, Throttle
from loadgen.wire import ResponseReader

UNASKED_PAUSE_MS = 1_000  # after a 429 that does not say how long to wait
LONGEST_RETRY_AFTER_MS = 60_000  # who asks for more is not obeyed


class Lane:
    """One target as the users of one process reach it."""

    def __init__(
        self,
        config: RunConfig,
        target: TargetConfig,
        *,
        alarm: Alarm,
        tally: Tally,
        guards: Guards,
        variables: Mapping[str, str],
        model: str | None,
        run_id: str,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        address = address_of(target.url or "")
        check_allowed(address, target.allow_hosts)
        self.config, self.name = target, target.name or address.origin
        self.credential = credential_of(target, variables, alone=len(config.targets) == 1)
        check_encrypted(address, self.credential)
        proxy = proxy_of(address, variables)
        self.endpoint = Endpoint(
            address,
            target,
            config.timeouts,
            self.credential,
            tally.start_ns,
            proxy,
            target.model or model,
            config.parameters,
        )
        mode = config.load.throttle if target.kind is Kind.SERVERLESS else ThrottleMode.OFF
        self.quota = quota = config.quota_of(target)
        self.throttle: Gate | None = (
            None if mode is ThrottleMode.OFF else Throttle(pacing(quota), alarm, quota.concurrency)
        )
        self.ahead: DistantGate | None = None
        self._feedback = mode is ThrottleMode.FEEDBACK
        self._admission, self._tally, self._id_prefix = quota.admission, tally, run_id[:8]
        self._guards, self._price = guards, (prices or {}).get(self.name, FREE)

    @property
    def waiting(self) -> int:
        """Requests that the throttle holds back."""
        return 0 if self.throttle is None else self.throttle.waiting

    def outlook(self, spec: RequestSpec | None) -> tuple[int, int]:
        """How many wait for its quota, and when one more request could go; of one token where it is not known yet."""
        now_ns = monotonic_ns()
        if self.throttle is None:
            return 0, now_ns
        return self.throttle.outlook(now_ns, 1 if spec is None else self.cost(spec))

    def cost(self, spec: RequestSpec) -> int:
        """Tokens that the request counts against the quota before its answer is known."""
        return self._admission.cost(prompt_tokens=spec.prompt_tokens, max_tokens=spec.max_tokens)

    def estimate(self, spec: RequestSpec) -> tuple[int, float]:
        """Tokens and US dollars that the request takes from the budget before its answer is known."""
        return spec.prompt_tokens + spec.max_tokens, self._price.usd(spec.prompt_tokens, spec.max_tokens)

    def attempt(
        self, sample: Sample, spec: RequestSpec, connection: Connection, wanted_ns: int
    ) -> ResponseReader | None:
        """One attempt, wanted at that instant, and its row. None where quota or budget never admit it."""
        sample.reserved_tokens = cost = self.cost(spec)
        sample.estimated_prompt_tokens = spec.prompt_tokens
        sample.admitted_ns = wanted_ns - self.endpoint.start_ns
        budget, throttle = self._guards.budget, self.throttle
        try:
            grant = None if throttle is None else self._admit(throttle, sample, cost)
        except (GreenletExit, ConfigError) as stop:
            if sample.attempt == 0:  # else the arrival has been sent, and its row says what became of it
                why = "never_fits_quota" if isinstance(stop, ConfigError) else "stopped_while_throttled"
                self._tally.drop(sample, why)
            if isinstance(stop, ConfigError):
                return None
            raise
        if budget is not None and not self._guards.reserve(*self.estimate(spec)):
            self._refuse(sample, grant, "budget")
            return None
        now_ns = monotonic_ns()
        if now_ns > self.endpoint.send_until_ns:  # a worker that has lost touch: its master may count on others by now
            self._refuse(sample, grant, "lease_ended")
            if budget is not None:
                self._settle_budget(budget, spec, sample)
            return None
        self._tally.note_sent(now_ns - self.endpoint.start_ns, cost)
        reader = self._exchange(sample, spec, connection)
        if throttle is not None and grant is not None:
            self._settle(throttle, grant, spec, sample, reader)
        if budget is not None:
            self._settle_budget(budget, spec, sample)
        return reader

    def _exchange(self, sample: Sample, spec: RequestSpec, connection: Connection) -> ResponseReader:
        """Send what is admitted, and record what came of it."""
        try:
            reader = connection.attempt(spec, sample, f"{self._id_prefix}-{sample.seq}-{sample.attempt}")
        except GreenletExit:
            self._tally.add(sample)
            raise
        finally:
            if self.throttle is not None:
                self.throttle.release()
        if spec.check is not None and sample.outcome == OK:
            sample.error = fault_of(spec.check, reader)
        self._tally.add(sample, reader.gaps_us)
        if sample.outcome != OK:
            self._guards.see(sample)
        return reader

    def admit_elsewhere(self, gate: DistantGate) -> None:
        """From now on quota and budget are another process's to give, and asked for ahead."""
        self.throttle = self.ahead = gate

    def expect(self, spec: RequestSpec, wanted_ns: int) -> None:
        """The calling greenlet will want to send that then; only where it is asked for ahead."""
        if self.ahead is not None:
            self.ahead.expect(wanted_ns, self.cost(spec), self.estimate(spec))

    def _refuse(self, sample: Sample, grant: Grant | None, why: str) -> None:
        """It is not sent: what the quota granted goes back."""
        if self.throttle is not None and grant is not None:
            self.throttle.release()
            self.throttle.cancel(grant)
        if sample.attempt == 0:
            self._tally.drop(sample, why)

    def _settle_budget(self, budget: Budget, spec: RequestSpec, sample: Sample) -> None:
        """Correct the estimate by the server's usage. Where that is not known the estimate stays."""
        tokens, usd = self.estimate(spec)
        if sample.sent_ns is None:
            budget.settle(-tokens, -usd, requests=-1)
        elif sample.outcome == Outcome.THROTTLED:  # refused at the door, and not billed
            budget.settle(-tokens, -usd, requests=sample.resent)
        elif sample.prompt_tokens is not None:
            completion_tokens = sample.completion_tokens or 0
            real_usd = self._price.usd(sample.prompt_tokens, completion_tokens)
            sends = 1 + sample.resent  # the server may have read each of them
            real_tokens = sends * (sample.prompt_tokens + completion_tokens)
            budget.settle(real_tokens - tokens, sends * real_usd - usd, requests=sample.resent)

    def _admit(self, throttle: Gate, sample: Sample, cost: int) -> Grant:
        asked_ns = monotonic_ns()
        grant = throttle.admit(cost)
        # A request that had not to wait was admitted when it was wanted: what delays it from there is our own lateness.
        if grant.at_ns > asked_ns + 1_000_000:
            sample.admitted_ns = grant.at_ns - self.endpoint.start_ns
        return grant

    def _settle(self, throttle: Gate, grant: Grant, spec: RequestSpec, sample: Sample, reader: ResponseReader) -> None:
        if sample.outcome == Outcome.THROTTLED:
            throttle.settle(grant, 0)  # its tokens were not counted; that it asked may have been
        elif sample.sent_ns is None:
            throttle.cancel(grant)
        elif sample.prompt_tokens is not None:
            real = self._admission.cost(
                prompt_tokens=sample.prompt_tokens,
                max_tokens=spec.max_tokens,
                completion_tokens=sample.completion_tokens,
            )
            throttle.settle(grant, real)
        if self._feedback:
            self._learn(throttle, sample, reader)

    def _learn(self, throttle: Gate, sample: Sample, reader: ResponseReader) -> None:
        if sample.outcome == Outcome.THROTTLED:
            throttle.pause(self._obeyed_ms(sample.retry_after_ms))
        tokens, requests = remaining_of(reader.headers, b"tokens"), remaining_of(reader.headers, b"requests")
        if tokens is not None or requests is not None:
            throttle.observe_remaining(tokens=tokens, requests=requests)

    def _obeyed_ms(self, asked_ms: int | None) -> int:
        """How long to send nothing after a 429. A server that asks for a day would otherwise end the run in silence."""
        if asked_ms is None:
            return UNASKED_PAUSE_MS
        if asked_ms > LONGEST_RETRY_AFTER_MS:
            self._tally.note(
                "retry_after",
                f"{self.name} asked to wait {asked_ms / 1e3:,.0f} s after a 429; it was left alone for "
                f"{LONGEST_RETRY_AFTER_MS / 1e3:.0f} s",
            )
        return min(asked_ms, LONGEST_RETRY_AFTER_MS)
