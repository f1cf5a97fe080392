"""Sockets and TLS in the gevent hub. One attempt fills in one Sample; nothing here raises for a server's fault.

There is no greenlet switch per chunk: a read watcher's callback receives, reads the clock once, feeds the
ResponseReader, and switches back to the waiting greenlet only when the response is complete.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

import gevent
from gevent import get_hub
from gevent.monkey import get_original

from loadgen.endpoint import Endpoint
from loadgen.requests import RequestSpec
from loadgen.samples import Outcome, Sample
from loadgen.wire import ResponseReader, printable, retry_after_ms

FINISH_REASON_LENGTH = 64
READ, WRITE = 1, 2  # libev's event masks
RECEIVE_BYTES = 65_536
STALE_NS = 100_000_000
NativeSocket = get_original("socket", "socket")  # never blocks here, so gevent's own socket would only be in the way


class Interrupted(Exception):  # noqa: N818 - how an attempt ended, turned into an outcome at once
    """An attempt that ended before its response did: outcome and code."""


class Connection:
    """One keep-alive connection, used by one greenlet at a time; opened when first needed and again when lost."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._socket: Any = None
        self._tls: ssl.SSLObject | None = None
        self._reading: Any = None
        self._writing: Any = None
        self._greenlet: gevent.Greenlet | None = None
        self._resume: Callable[[], None] | None = None
        self._reader: ResponseReader | None = None
        self._unsent = memoryview(b"")
        self._interruption: Interrupted | None = None
        self._used = False
        self._timeouts_ns: dict[str, int] = {
            name: round(getattr(endpoint.timeouts, name) * 1e9) for name in ("connect", "first_byte", "idle", "total")
        }
        self._began_ns = self._stage_ns = 0
        self._prepare_until_ns: int | None = None
        self.timeout_code = ""

    def attempt(self, spec: RequestSpec, sample: Sample, request_id: str) -> ResponseReader:
        """Send the request and read its response into `sample`. Returns the reader, for its headers."""
        payload = self._endpoint.encode(spec, request_id)
        sample.bytes_out = len(payload)
        self._began_ns = monotonic_ns()
        reader = ResponseReader(stream=spec.stream)
        outcome, error = Outcome.NETWORK, None
        try:
            reader = self._exchange(payload, sample, spec)
            outcome, error = reader.verdict(self._redact)
        except Interrupted as interrupted:
            reader = self._reader or reader
            outcome, error = interrupted.args
        except BaseException:
            self._note(sample, self._reader or reader, Outcome.CANCELLED, "stopped")
            self.close()
            raise
        finally:
            self._endpoint.active.discard(self)
            self._reader = None
        if self._unsent or not (reader.complete and reader.keep_alive and reader.broken is None):
            self.close()  # also where the answer came before the request was out: what follows would be misread
        self._note(sample, reader, outcome, error)
        return reader

    def ready(self, until_ns: int) -> None:
        """Open the connection ahead of time, so that a request that is due need not wait for it, but not beyond then.

        A connection that the server has closed meanwhile is opened again. Failures show at the attempt.
        """
        if self._socket is not None and self._is_stale():
            self.close()
        if self._socket is None:
            self._began_ns = monotonic_ns()
            self._prepare_until_ns = until_ns
            try:
                self._open()
            except Interrupted:
                self.close()
            finally:
                self._endpoint.active.discard(self)
                self._prepare_until_ns = None

    def _is_stale(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return self._tls is None  # over TLS it may be a new session ticket

    def close(self) -> None:
        for watcher in (self._reading, self._writing):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = self._tls = self._reading = self._writing = None
        self._used, self._unsent = False, memoryview(b"")

    def interrupt(self, outcome: Outcome, code: str) -> None:
        """End the attempt in progress from outside: a timeout, or the end of the run."""
        if self._interruption is None:
            self._interruption = Interrupted(outcome, code)
            self._wake()

    def deadline_ns(self) -> int:
        """When the attempt in progress will have taken too long; says so in `timeout_code`."""
        if self._prepare_until_ns is not None:
            return self._prepare_until_ns
        stage = self._stage()
        stage_ends_ns = self._stage_ns + self._timeouts_ns[stage]
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
        while True:
            if self._socket is None:
                self._open()
            fresh = not self._used
            self._used = True
            reader = self._reader = ResponseReader(stream=spec.stream)
            self._stage_ns = monotonic_ns()
            if sample.sent_ns is None:
                sample.sent_ns = self._stage_ns - self._endpoint.start_ns
            try:
                self._transmit(payload)
                self._wait(self._reading, self._readable)
            except Interrupted as interrupted:
                if fresh or not self._went_stale(interrupted, reader):
                    raise
            else:
                if fresh or reader.broken != "closed_before_answer" or not self._just_sent():
                    return reader
            self.close()  # the server had closed an idle connection: nothing was lost, so open another, once

    def _just_sent(self) -> bool:
        """An idle connection that the server has closed says so at once; later, it is an answer that failed."""
        return monotonic_ns() - self._stage_ns < STALE_NS

    def _went_stale(self, interrupted: Interrupted, reader: ResponseReader) -> bool:
        outcome, _ = interrupted.args
        return outcome is Outcome.NETWORK and reader.first_byte_ns is None and self._just_sent()

    def _open(self) -> None:
        self._stage_ns, self._reader = monotonic_ns(), None
        failure: OSError | None = None
        for family, kind, protocol, _, where in self._endpoint.resolved:
            try:
                self._connect(family, kind, protocol, where)
                break
            except OSError as error:
                self.close()
                failure = error
        else:
            raise Interrupted(Outcome.NETWORK, _network_code("connect", failure))
        if self._endpoint.tls is not None:
            self._handshake(self._endpoint.tls)

    def _connect(self, family: int, kind: int, protocol: int, where: Any) -> None:
        self._socket = connecting = NativeSocket(family, kind, protocol)
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = get_hub().loop
        self._reading = loop.io(connecting.fileno(), READ)
        self._writing = loop.io(connecting.fileno(), WRITE)
        failed = connecting.connect_ex(where)
        if failed in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            self._wait(self._writing, self._wake)
            failed = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise OSError(failed, os.strerror(failed))

    def _handshake(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._endpoint.address.host)
        while True:
            try:
                self._tls.do_handshake()
                self._transmit_raw(self._outgoing.read())
                return
            except ssl.SSLWantReadError:
                self._transmit_raw(self._outgoing.read())
                self._wait(self._reading, self._wake)
                data = self._receive()
                if not data:
                    raise Interrupted(Outcome.NETWORK, "tls_closed") from None
                self._incoming.write(data)
            except ssl.SSLCertVerificationError:
                raise Interrupted(Outcome.NETWORK, "tls_certificate_not_trusted") from None
            except ssl.SSLError as error:
                raise Interrupted(Outcome.NETWORK, f"tls_{(error.reason or 'failed').lower()}") from None

    def _transmit(self, payload: bytes) -> None:
        if self._tls is not None:
            self._tls.write(payload)
            payload = self._outgoing.read()
        self._transmit_raw(payload)

    def _transmit_raw(self, payload: bytes) -> None:
        """Send what the socket takes at once; the rest goes as it drains, while the answer is already watched for."""
        self._unsent = memoryview(payload)
        self._writable()
        if self._unsent:
            self._writing.start(self._writable)

    def _writable(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:  # the server has closed its side; why, it may have said, and the reader will see
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._stage_ns = monotonic_ns()
            self._writing.stop()

    def _wait(self, watcher: Any, callback: Callable[[], None]) -> None:
        """Park this greenlet until `_wake`, with `watcher` calling back meanwhile. Raises Interrupted."""
        self._greenlet, self._interruption = gevent.getcurrent(), None
        self._endpoint.active.add(self)
        watcher.start(callback)
        try:
            get_hub().switch()
        finally:
            watcher.stop()
            if self._writing is not None:
                self._writing.stop()
            self._greenlet = None
        if self._interruption is not None:
            raise self._interruption

    def _wake(self) -> None:
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.switch()

    def _readable(self) -> None:
        """The hot path: receive, one clock reading, parse."""
        reader = self._reader
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.interrupt(Outcome.NETWORK, _network_code("receive", error))
            return
        now_ns = monotonic_ns() - self._endpoint.start_ns
        assert reader is not None
        if self._tls is not None and data:
            data = self._decrypt(data)
            if data is None:
                return
        if not data:
            reader.feed_eof()
            self._wake()
        elif reader.feed(data, now_ns):
            self._wake()

    def _decrypt(self, data: bytes) -> bytes | None:
        """Plain bytes; b"" at the end of the session; None where a record is still incomplete."""
        assert self._tls is not None
        self._incoming.write(data)
        plain = bytearray()
        try:
            while piece := self._tls.read(RECEIVE_BYTES):
                plain += piece
        except ssl.SSLWantReadError:
            return bytes(plain) or None
        except ssl.SSLError:
            pass
        return bytes(plain)

    def _receive(self) -> bytes:
        try:
            return bytes(self._socket.recv(RECEIVE_BYTES))
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Interrupted(Outcome.NETWORK, _network_code("receive", error)) from None

    def _redact(self, text: str) -> str:
        credential = self._endpoint.credential
        return text if credential is None else credential.redact(text)

    def _note(self, sample: Sample, reader: ResponseReader, outcome: Outcome, error: str | None) -> None:
        """Copy what the attempt came to into its row."""
        cut_stream = outcome is Outcome.NETWORK and reader.status == 200
        sample.outcome = (Outcome.BROKEN_STREAM if cut_stream else outcome).value
        sample.error = error
        sample.status = reader.status
        sample.first_byte_ns = reader.first_byte_ns
        sample.first_token_ns, sample.last_token_ns = reader.first_token_ns, reader.last_token_ns
        # What was complete ended with its last byte; what was cut short ends now.
        ended_ns = reader.last_byte_ns if reader.complete else None
        sample.done_ns = ended_ns if ended_ns is not None else monotonic_ns() - self._endpoint.start_ns
        sample.prompt_tokens, sample.completion_tokens = reader.prompt_tokens, reader.completion_tokens
        sample.usage_source = "server" if reader.completion_tokens is not None else "estimated"
        sample.chunks, sample.bytes_in = reader.chunks, reader.bytes_in
        reason = reader.finish_reason
        sample.finish_reason = None if reason is None else printable(self._redact(reason))[:FINISH_REASON_LENGTH]
        if reader.status in (429, 503):
            sample.retry_after_ms = retry_after_ms(reader.headers, time.time())


def _network_code(doing: str, error: OSError | None) -> str:
    """Such as connect_econnrefused: what was being done, and the system's own name for what happened."""
    return (
        f"{doing}_{errno.errorcode.get(error.errno or 0, 'failed').lower()}" if error is not None else f"{doing}_failed"
    )
