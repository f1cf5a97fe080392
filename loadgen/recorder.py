"""The recorder process: a load worker hands it rows through a pipe, and it makes them durable.

Building and writing Parquet takes milliseconds at a time, which a load worker's hub must not lose. It also outlives a
worker that is killed: at the end of the pipe it publishes all that reached it.
"""

from __future__ import annotations

import fcntl
import gc
import io
import marshal
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from loadgen.claim import hold
from loadgen.errors import RunFolderError
from loadgen.samples import Gaps, Recorder, Sample, row_of, samples_frame

PUBLISH_S = 0.4  # with what a load process takes to hand its rows over, less than a second even on a busy machine
PIPE_BYTES = 1 << 20  # Linux's most for everybody: a batch is written at once, without a turn of the recorder between
_HEADER = struct.Struct("<I")


def packed(sample: Sample) -> bytes:
    """A row as it travels. Bytes are nothing to the garbage collector, and packing row by row stalls no hub."""
    return marshal.dumps(row_of(sample))


class RecorderPipe:
    """A worker's end: starts the recorder and sends it batches; `write` writes to a pipe without blocking others."""

    def __init__(self, folder: Path, worker: int, write: Callable[[int, memoryview], int]) -> None:
        command = [sys.executable, "-m", "loadgen.recorder", str(folder), str(worker)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin is not None
        self._fd = self._process.stdin.fileno()
        self._write = write
        with suppress(OSError, AttributeError):  # the user's pipes may not hold more, or the system has no such thing
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def fd(self) -> int:
        return self._fd

    def send(self, rows: Sequence[bytes], gaps: Sequence[Gaps]) -> None:
        """Raises RunFolderError with what the recorder said, if it is gone: what is not recorded is no run."""
        batch = marshal.dumps((list(rows), list(gaps)))
        unsent = memoryview(_HEADER.pack(len(batch)) + batch)
        try:
            while unsent:
                unsent = unsent[self._write(self._fd, unsent) :]
        except BrokenPipeError:
            raise RunFolderError(f"the record could not be written: {self._last_words()}") from None

    def close(self) -> None:
        """Wait until all that was sent is durable. Raises RunFolderError if it is not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait() != 0:
            raise RunFolderError(f"the record could not be written: {self._last_words()}")

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        self._process.wait()
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"the recorder ended with {self._process.returncode}"


def record(pipe: IO[bytes], recorder: Recorder) -> None:
    """Read batches until the pipe ends, publishing each PUBLISH_S what has come. One cut at the end is passed over."""
    publish_at = time.monotonic() + PUBLISH_S
    while True:
        # The pipe is read unbuffered, so that `select` sees all there is.
        ready, _, _ = select.select([pipe], [], [], max(0.0, publish_at - time.monotonic()))
        if ready:
            header = _read_exactly(pipe, _HEADER.size)
            batch = _read_exactly(pipe, _HEADER.unpack(header)[0]) if header is not None else None
            if batch is None:
                break
            rows, gaps = marshal.loads(batch)  # noqa: S302 - from the worker that started this process
            recorder.add(map(marshal.loads, rows), gaps)
        if time.monotonic() >= publish_at:
            publish_at = time.monotonic() + PUBLISH_S  # what the publishing itself takes is not added
            recorder.publish()
    recorder.publish()


def _read_exactly(pipe: IO[bytes], size: int) -> bytes | None:
    pieces: list[bytes] = []
    while size:
        piece = pipe.read(size)
        if not piece:
            return None
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def main(arguments: Sequence[str]) -> int:
    folder, worker = arguments
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the end of the pipe is the only end
    gc.disable()  # rows hold no cycles, and there are very many of them
    samples_frame([]).write_parquet(io.BytesIO())  # what the first write loads is there before a row comes
    try:
        hold(Path(folder))
        record(os.fdopen(0, "rb", buffering=0), Recorder(Path(folder), int(worker)))
    except RunFolderError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.strerror}: {error.filename or folder}\n")
        return 1
    except Exception as error:  # polars has its own for a full disk
        sys.stderr.write(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
