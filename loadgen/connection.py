"""Sockets and TLS in the gevent hub. One attempt fills in one Sample; nothing here raises for a server's fault.

There is no greenlet switch per chunk: a read watcher's callback receives, reads the clock once, feeds the
ResponseReader, and switches back to the waiting greenlet only when the response is complete. The watcher runs for as
long as the connection stands, so that between two attempts it tells at once when the server closes it.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from time import monotonic_ns
from typing import Any

import gevent
from gevent import get_hub, getcurrent
from gevent.monkey import get_original

from loadgen.endpoint import Endpoint
from loadgen.kept import reader_for
from loadgen.refusals import printable, retry_after_ms
from loadgen.requests import RequestSpec
from loadgen.samples import OK, Outcome, Sample
from loadgen.tls import HandshakeFailed, Session
from loadgen.wire import ResponseReader

FINISH_REASON_LENGTH = 64
KNOWN_REASONS = frozenset(("stop", "length", "tool_calls", "content_filter"))  # any other may be anything
READ, WRITE = 1, 2  # libev's event masks
RECEIVE_BYTES = 65_536
PROXY_HEAD_LIMIT = 16 << 10
STALE_NS = 100_000_000
STALE_ROUND_TRIPS = 3
LONGEST_STALE_NS = 1_000_000_000
NOTHING = memoryview(b"")
NativeSocket = get_original("socket", "socket")  # never blocks here, so gevent's own socket would only be in the way


class Interrupted(Exception):  # noqa: N818 - how an attempt ended, turned into an outcome at once
    """An attempt that ended before its response did: outcome and code."""


class Connection:
    """One keep-alive connection, used by one greenlet at a time; opened when first needed and again when lost."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._hub = endpoint, get_hub()
        self._socket: Any = None
        self._tls: Session | None = None
        self._reading: Any = None
        self._writing: Any = None
        self._greenlet: gevent.Greenlet | None = None
        self._reader: ResponseReader | None = None
        self._unsent = NOTHING
        self._unsendable: OSError | None = None
        # Outcome and code, not the exception: that would keep its frames, and with them the request.
        self._interruption: tuple[Outcome, str] | None = None
        # When and why a request's connection failed to open.
        self._unopened: tuple[int, tuple[Outcome, str]] | None = None
        self._used = False
        self._connect_ns = self._connected_ns = self._secured_ns = self._round_trip_ns = 0
        self._timeouts_ns: dict[str, int] = {
            name: round(getattr(endpoint.timeouts, name) * 1e9) for name in ("connect", "first_byte", "idle", "total")
        }
        self._began_ns = self._stage_ns = 0
        self._connect_share = 1.0
        self.timeout_code = ""

    def attempt(self, spec: RequestSpec, sample: Sample, request_id: str) -> ResponseReader:
        """Send the request and read its response into `sample`. Returns the reader, for its headers."""
        payload = self._endpoint.encode(spec, request_id)
        sample.bytes_out = len(payload)
        self._began_ns = monotonic_ns()
        try:
            reader = self._exchange(payload, sample, spec)
            outcome, error = reader.verdict(self._endpoint.redact)
            if reader.status == 407 and self._endpoint.proxy is not None:
                outcome, error = Outcome.NETWORK, "proxy_407"
        except Interrupted as interrupted:
            reader = self._reader or reader_for(spec)
            # A stream that has said [DONE] is whole, however long its connection takes to end.
            outcome, error = reader.verdict(self._endpoint.redact) if reader.done_marker else interrupted.args
        except BaseException:
            reader = self._reader or reader_for(spec)
            self._note(sample, reader, Outcome.CANCELLED, "stopped")
            self.close()
            raise
        finally:
            self._endpoint.active.discard(self)
            if self._reader is not None:
                self._reader.release()
                self._reader = None
        if self._unsent or not (reader.complete and reader.keep_alive and reader.broken is None):
            self.close()  # also where the answer came before the request was out: what follows would be misread
        self._note(sample, reader, outcome, error)
        return reader

    def ready(self, due_ns: int) -> None:
        """Open the connection ahead of a request that is due then, so that it need not wait for it.

        What takes longer than that is waited for. A failure before then is no one's: the attempt will try again.
        """
        if self._socket is not None:
            return
        self._began_ns = monotonic_ns()
        try:
            self._open()
        except Interrupted as failure:
            self.close()
            if monotonic_ns() >= due_ns:
                self._unopened = monotonic_ns(), failure.args
        finally:
            self._endpoint.active.discard(self)

    def close(self) -> None:
        for watcher in (self._reading, self._writing):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._tls = self._reading = self._writing = None
        self._used, self._unsent = False, NOTHING

    def interrupt(self, outcome: Outcome, code: str) -> None:
        """End the attempt in progress from outside: a timeout, or the end of the run."""
        if self._interruption is None:
            self._interruption = outcome, code
            self._wake()

    def deadline_ns(self) -> int:
        """When the attempt in progress will have taken too long; says so in `timeout_code`."""
        stage = self._stage()
        patience_ns = self._timeouts_ns[stage]
        stage_ends_ns = self._stage_ns + (
            round(patience_ns * self._connect_share) if stage == "connect" else patience_ns
        )
        ends_ns = self._began_ns + self._timeouts_ns["total"]
        self.timeout_code = f"{stage if stage_ends_ns <= ends_ns else 'total'}_timeout"
        return min(stage_ends_ns, ends_ns)

    def _stage(self) -> str:
        if self._reader is None:
            return "connect"
        if self._reader.last_byte_ns is None:
            return "first_byte"
        self._stage_ns = self._reader.last_byte_ns + self._endpoint.start_ns
        return "idle"

    def _exchange(self, payload: bytes, sample: Sample, spec: RequestSpec) -> ResponseReader:
        if self._unopened is not None:
            (failed_ns, failure), self._unopened = self._unopened, None
            if monotonic_ns() - failed_ns < STALE_NS:  # else it has waited for the quota, and may try again
                raise Interrupted(*failure)
        while True:
            fresh = self._socket is None  # else it has been idle, used before or not, and may be lost by now
            if fresh:
                self._open()
            if not self._used:
                self._note_opening(sample)
            self._used = True
            reader = self._reader = reader_for(spec)
            self._unsendable = None
            self._stage_ns = sent_ns = monotonic_ns()
            if sent_ns > self._endpoint.send_until_ns:
                raise Interrupted(Outcome.CANCELLED, "lease_ended")
            sample.sent_ns = sent_ns - self._endpoint.start_ns
            try:
                self._transmit(payload if self._tls is None else self._tls.encrypt(payload))
                self._park()
            except Interrupted as interrupted:
                if fresh or interrupted.args[0] is not Outcome.NETWORK or not self._was_stale(reader, sent_ns):
                    raise
            else:
                if fresh or reader.complete or not self._was_stale(reader, sent_ns):
                    return reader
            self.close()  # the server had closed an idle connection: nothing was lost, so open another, once
            sample.resent += 1

    def _was_stale(self, reader: ResponseReader, sent_ns: int) -> bool:
        """An idle connection that the server has closed says so within a round trip; later, an answer has failed."""
        patience_ns = max(STALE_NS, min(STALE_ROUND_TRIPS * self._round_trip_ns, LONGEST_STALE_NS))
        return not reader.bytes_in and monotonic_ns() - sent_ns < patience_ns

    # Opening.

    def _open(self) -> None:
        self._stage_ns, self._reader = monotonic_ns(), None
        self._connect_ns, self._secured_ns = self._stage_ns, 0
        addresses = self._endpoint.resolved
        failure = "connect_failed"
        for number, (family, kind, protocol, _, where) in enumerate(addresses, start=1):
            self._connect_share = number / len(addresses)  # of the time, by when the next one gets its turn
            try:
                began_ns = monotonic_ns()
                self._connect(family, kind, protocol, where)
                self._round_trip_ns = monotonic_ns() - began_ns
                break
            except OSError as error:
                failure = _network_code("connect", error)
            except Interrupted as interrupted:
                if number == len(addresses) or interrupted.args[1] != "connect_timeout":
                    raise
            self.close()
        else:
            raise Interrupted(Outcome.NETWORK, failure)
        self._connect_share = 1.0
        if self._endpoint.tunnel is not None:
            self._dig(self._endpoint.tunnel)
        self._connected_ns = monotonic_ns()
        if self._endpoint.tls is not None:
            self._tls = Session(self._endpoint.tls, self._endpoint.address.host)
            self._shake_hands(self._tls)
            self._secured_ns = monotonic_ns()
        self._reading.start(self._readable)

    def _connect(self, family: int, kind: int, protocol: int, where: Any) -> None:
        self._socket = connecting = NativeSocket(family, kind, protocol)
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = self._hub.loop
        self._reading = loop.io(connecting.fileno(), READ)
        self._writing = loop.io(connecting.fileno(), WRITE)
        failed = connecting.connect_ex(where)
        if failed in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            self._wait(self._writing)
            failed = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))

    def _dig(self, request: bytes) -> None:
        """Ask the proxy for a tunnel to the target."""
        self._transmit(request)
        head = b""
        while b"\r\n\r\n" not in head:
            received = self._receive()
            head += received
            if not received or len(head) > PROXY_HEAD_LIMIT:
                raise Interrupted(Outcome.NETWORK, "proxy_no_answer")
        version, _, rest = head.partition(b" ")
        status = rest[:3]
        if not version.startswith(b"HTTP/1.") or not status.isdigit():
            raise Interrupted(Outcome.NETWORK, "proxy_no_answer")
        if not status.startswith(b"2"):
            raise Interrupted(Outcome.NETWORK, f"proxy_{status.decode()}")

    def _shake_hands(self, session: Session) -> None:
        received, done = b"", False
        while not done:
            try:
                done = session.shake_hands(received)
            except HandshakeFailed as failure:
                self._transmit(session.pending())  # tells the server why
                raise Interrupted(Outcome.NETWORK, failure.args[0]) from None
            self._transmit(session.pending())
            if not done:
                received = self._receive()
                if not received:
                    raise Interrupted(Outcome.NETWORK, "tls_closed")

    def _receive(self) -> bytes:
        """Wait for bytes, while the connection is being opened; b"" at the end. Raises Interrupted."""
        while True:
            self._wait(self._reading)
            try:
                return bytes(self._socket.recv(RECEIVE_BYTES))
            except BlockingIOError:
                continue
            except OSError as error:
                raise Interrupted(Outcome.NETWORK, _network_code("receive", error)) from None

    # Sending.

    def _transmit(self, payload: bytes | memoryview) -> None:
        """Send what the socket takes at once; the rest goes as it drains, while the answer is already watched for."""
        try:
            sent = self._socket.send(payload)
        except BlockingIOError:
            sent = 0
        except OSError as error:  # the server has closed its side; why, it may have said, and the reader will see
            self._unsendable = error.with_traceback(None)
            return
        if sent < len(payload):
            self._unsent = memoryview(payload)[sent:]
            self._writing.start(self._writable)

    def _writable(self) -> None:
        self._writing.stop()
        unsent, self._unsent = self._unsent, NOTHING
        self._transmit(unsent)
        self._stage_ns = monotonic_ns()  # the answer's first byte is waited for from the request's last

    # Waiting.

    def _wait(self, watcher: Any) -> None:
        """Park this greenlet until the watcher sees something. Raises Interrupted."""
        watcher.start(self._wake)
        try:
            self._park()
        finally:
            watcher.stop()

    def _park(self) -> None:
        """Park this greenlet until `_wake`. Raises Interrupted."""
        self._greenlet, self._interruption = getcurrent(), None
        self._endpoint.active.add(self)
        try:
            self._hub.switch()
        finally:
            self._greenlet = None
        if self._interruption is not None:
            raise Interrupted(*self._interruption)

    def _wake(self) -> None:
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.switch()

    # Receiving.

    def _readable(self) -> None:
        """The hot path: receive, one clock reading, parse."""
        reader = self._reader
        if reader is None:
            self._read_unasked()
            return
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.interrupt(Outcome.NETWORK, _network_code("receive", error))
            return
        now_ns = monotonic_ns() - self._endpoint.start_ns
        ended = not data
        if self._tls is not None and data:
            data = self._tls.decrypt(data)
            ended = self._tls.ended
        if data and reader.feed(data, now_ns):
            self._wake()
        elif ended:
            self._end(reader)

    def _end(self, reader: ResponseReader) -> None:
        """The server has closed the connection. Over TLS it must have said so, or anyone may have cut it."""
        if self._tls is not None and not self._tls.ended and reader.status is not None and not reader.complete:
            reader.broken = reader.broken or "cut"
        if self._unsendable is not None and reader.first_byte_ns is None:  # the kernel tells of a reset only once
            self.interrupt(Outcome.NETWORK, _network_code("send", self._unsendable))
            return
        reader.feed_eof()
        self._wake()

    def _read_unasked(self) -> None:
        """Between two attempts: the server closes the connection, sends what nobody asked for, or TLS tickets."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or self._tls is None or self._tls.decrypt(data) or self._tls.ended:
            self.close()

    # The row.

    def _note_opening(self, sample: Sample) -> None:
        start_ns = self._endpoint.start_ns
        sample.connect_ns, sample.connected_ns = self._connect_ns - start_ns, self._connected_ns - start_ns
        sample.secured_ns = self._secured_ns - start_ns if self._secured_ns else None

    def _note(self, sample: Sample, reader: ResponseReader, outcome: Outcome, error: str | None) -> None:
        """Copy what the attempt came to into its row."""
        if outcome is not OK:  # else the row says so already
            cut_stream = outcome is Outcome.NETWORK and reader.status == 200
            sample.outcome = (Outcome.BROKEN_STREAM if cut_stream else outcome).value
            sample.error = error
        sample.status = reader.status
        sample.first_byte_ns = reader.first_byte_ns
        sample.first_token_ns, sample.last_token_ns = reader.first_token_ns, reader.last_token_ns
        # What was complete ended with its last byte; what was cut short ends now.
        ended_ns = reader.last_byte_ns if reader.complete or reader.done_marker else None
        sample.done_ns = ended_ns if ended_ns is not None else monotonic_ns() - self._endpoint.start_ns
        sample.prompt_tokens, sample.completion_tokens = reader.prompt_tokens, reader.completion_tokens
        sample.usage_source = "server" if reader.completion_tokens is not None else "estimated"
        sample.chunks, sample.bytes_in = reader.chunks, reader.bytes_in
        reason = reader.finish_reason
        if reason in KNOWN_REASONS:
            sample.finish_reason = reason
        elif reason is not None:
            sample.finish_reason = printable(self._endpoint.redact(reason))[:FINISH_REASON_LENGTH]
        if reader.status is not None and (reader.status in (408, 429) or reader.status >= 500):
            sample.retry_after_ms = retry_after_ms(reader.headers, time.time())


def _network_code(doing: str, error: OSError) -> str:
    """Such as connect_econnrefused: what was being done, and the system's own name for what happened."""
    return f"{doing}_{errno.errorcode.get(error.errno or 0, 'failed').lower()}"
