"""The process of the service: its lock on the runs, its socket, its queue, and its end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import uvicorn

from dashboards.readable import readable
from headroom.service.app import create_app
from headroom.service.connections import PatientConnection
from headroom.service.jobs import Job, Kind
from headroom.service.launching import NICENESS
from headroom.service.settings import Settings
from loadgen.claim import claimed
from loadgen.errors import RunFolderError
from loadgen.guards import STOP_FILE
from loadgen.simulator.listening import listening

BACKLOG, MOST_CONNECTIONS, END_S = 512, 256, 3
LONGEST_HEAD = 16 << 10  # bytes


class Server(uvicorn.Server):
    """Says where it listens, and ends with 0 when it is told to."""

    url = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(f"{self.url}\n")
        sys.stdout.flush()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        yield

    def _end(self) -> None:
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; what runs then is left to end by itself. Raises ConfigError and RunFolderError."""
    for target in settings.targets:
        target.check_key(os.environ)
    with listening(settings.host, settings.port, BACKLOG) as listener, ExitStack() as held:
        with _made(settings.state):
            held.enter_context(_claimed(settings))
            app = create_app(settings)
        config = uvicorn.Config(
            app,
            http=PatientConnection,  # by h11, which bounds what comes before a body, as httptools does not
            h11_max_incomplete_event_size=LONGEST_HEAD,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=END_S,
            backlog=BACKLOG,
        )
        server = Server(config)
        server.url = _url(settings.host, listener)
        app.state.stopping = lambda: server.should_exit
        _greet(settings)
        app.state.desk.runner.start()
        _make_way()
        try:
            asyncio.run(server.serve(sockets=[listener]))
        finally:
            app.state.desk.runner.stop()
            _part(settings, app.state.desk.runner.still_running())
            app.state.desk.jobs.close()


def _make_way() -> None:
    """Answers may wait for a load test that measures. Of Linux: of this thread and those that it starts from now on,
    so not of the runner's, whose jobs inherit its priority."""
    with suppress(OSError):  # it has a lower one already
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def _greet(settings: Settings) -> None:
    lines = []
    if not settings.on_loopback:
        lines.append(
            "other machines can reach this service: each request needs the token, and nothing is encrypted: put a "
            "proxy with TLS before it"
        )
    if settings.parallel > 1:
        lines.append(
            f"{settings.parallel} jobs run at once: load tests on one machine disturb each other's measurements"
        )
    sys.stderr.write("".join(f"headroom: {line}\n" for line in lines))


def _part(settings: Settings, running: Sequence[Job]) -> None:
    """Load goes on without the service, and whoever ends that should know."""
    if not running:
        return
    jobs = "1 job is" if len(running) == 1 else f"{len(running)} jobs are"
    lines = [
        f"{jobs} still running ({', '.join(job.id for job in running)}), and `headroom serve --runs {settings.runs}` "
        "will find what comes of it"
    ]
    lines += [f"to stop it: touch {settings.runs / job.id / STOP_FILE}" for job in running if job.kind is Kind.LOADTEST]
    sys.stderr.write("".join(f"headroom: {readable(line)}\n" for line in lines))


def _claimed(settings: Settings) -> AbstractContextManager[None]:
    """One service at a time works on the runs."""
    busy = f"another service works on {settings.runs} already: end that one, or choose another --runs"
    return claimed(settings.state / "lock", busy=busy, flags=os.O_RDWR | os.O_CREAT)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder is there. Where the body fails, what was not there before is gone again."""
    absent: list[Path] = []
    try:
        absent += [each for each in folder.parents if not each.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        ours = _made_here(folder)
    except OSError as error:
        _remove(absent)
        raise RunFolderError(f"cannot write to {folder.parent}: {error.strerror}; choose another --runs") from None
    try:
        yield
    except BaseException:
        if ours:
            shutil.rmtree(folder, ignore_errors=True)
            _remove(absent)
        raise


def _made_here(folder: Path) -> bool:
    """False where it was there, perhaps made by another service that starts."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _remove(empty: Sequence[Path]) -> None:
    for each in empty:
        with suppress(OSError):  # somebody keeps something there meanwhile
            each.rmdir()


def _url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
