"""The life of the process: starting, ready, draining, stopped; and the signals that move it."""

from __future__ import annotations

import os
import platform
import select
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic

from echod import __version__
from echod.config import Config, SystemRefused
from echod.exporter import MAX_CLIENTS
from echod.listeners import Listener, bind
from echod.logs import LogWriter, make_logger
from echod.reports import Logger, described
from echod.runtime import gil_enabled, raise_open_file_limit
from echod.service import Service, thread_count

SPARE_OPEN_FILES = 64
"""Descriptors beside those of connections: log, listeners, selectors, /proc, a margin."""
OPEN_FILES_PER_THREAD = 3
STOP_SECONDS = 2.0
"""Longest wait for threads that have been told to end: longer than any of them lingers."""
LOG_SECONDS = 0.5
"""Longest wait at the end for a reader of the log who has stalled."""
LOOK_SECONDS = 0.02
"""How often a drain looks whether it is over."""
STDOUT = 1


class Signals:
    """SIGTERM and SIGINT as something to wait for. No work is done inside a handler."""

    def __enter__(self) -> Signals:
        """From here on the two signals are kept for ``wait``."""
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        """The signals stay harmless: what follows is the end of the process."""
        signal.set_wakeup_fd(-1)
        self._read.close()
        self._write.close()

    def wait(self, timeout: float | None = None) -> signal.Signals | None:
        """The next signal, or None when ``timeout`` seconds have passed without one."""
        if not select.select([self._read], [], [], timeout)[0]:
            return None
        return signal.Signals(self._read.recv(1)[0])


def serve(config: Config) -> int:
    """Serves until a signal, then drains; gives the exit status.

    Raises SystemRefused, before anything listens, if the system does not allow it.
    """
    began = monotonic()
    with Signals() as signals, ExitStack() as sockets:
        max_connections = _places(config)
        ports = [_bound(sockets, config.address, port) for port in config.ports]
        metrics = None
        if config.metrics_port is not None:
            metrics = _bound(sockets, config.metrics_address, config.metrics_port)
        writer = LogWriter(STDOUT)
        logger = _logger(config, writer)
        service = Service(config, ports, metrics, max_connections, writer, logger)
        service.start()
        writer.start()
        _report_start(config, service, logger, began)
        first = signals.wait()
        second = _drain(config, service, signals, logger, first)
        _report_stop(service, logger, began, second)
        writer.close(LOG_SECONDS)
        return 128 + second if second else 0


def _places(config: Config) -> int:
    """The connection limit, as far as the open-file limit (raised to the most) can hold it."""
    open_files = raise_open_file_limit()
    others = (
        SPARE_OPEN_FILES
        + MAX_CLIENTS
        + len(config.ports)
        + OPEN_FILES_PER_THREAD * thread_count(config)
    )
    room = open_files - others
    if config.max_connections <= room:
        return config.max_connections
    if room < 1 or "max_connections" in config.given:
        raise SystemRefused(
            f"--max-connections {config.max_connections}: the open-file limit of {open_files}"
            f" holds {max(room, 0)} at most (raise the limit: ulimit -Hn, LimitNOFILE=)"
        )
    return room


def _bound(sockets: ExitStack, address: str, port: int) -> Listener:
    listener = bind(address, port)
    sockets.callback(listener.socket.close)
    return listener


def _logger(config: Config, writer: LogWriter) -> Logger:
    terminal = os.isatty(STDOUT)
    console = config.log_format == "console" or (config.log_format == "auto" and terminal)
    logger = make_logger(writer, config.log_level, console=console, colors=terminal)
    threading.excepthook = lambda fault: logger.error(
        "thread died", thread=fault.thread and fault.thread.name, **described(fault.exc_value)
    )
    return logger


def _report_start(config: Config, service: Service, logger: Logger, began: float) -> None:
    limit = service.admission.limit
    logger.info(
        "starting",
        release=__version__,
        python=platform.python_version(),
        gil=gil_enabled(),
        pid=os.getpid(),
        version=config.service_version,
        handler_threads=len(service.handlers),
        max_connections=limit,
    )
    if limit < config.max_connections:
        logger.warning(
            "connection limit lowered to fit the open-file limit",
            max_connections=limit,
            wanted=config.max_connections,
        )
    for server in service.servers:
        # The words of the program that this one replaces; people grep for them.
        words = f"listening on {server.listener.address}, prefix: {config.prefix}"
        logger.info(words, port=server.listener.port)
    if service.exporter:
        listener = service.exporter.listener
        logger.info(f"metrics on {listener.address}", port=listener.port)
    logger.info("ready", seconds=round(monotonic() - began, 3))


def _drain(
    config: Config,
    service: Service,
    signals: Signals,
    logger: Logger,
    first: signal.Signals | None,
) -> signal.Signals | None:
    """Stops as promised; gives the second signal at once if one comes meanwhile."""
    service.state = "draining"
    logger.info(
        "draining",
        signal=first and first.name,
        delay=config.drain_delay,
        timeout=config.drain_timeout,
        connections=service.open_connections(),
    )
    if second := signals.wait(config.drain_delay):
        return second
    service.stop_accepting()
    if second := _wait_for(service.accepting, monotonic() + STOP_SECONDS, signals):
        return second
    deadline = monotonic() + config.drain_timeout
    service.drain(deadline)
    if second := _wait_for(service.handlers, deadline + STOP_SECONDS, signals):
        return second
    service.stop()
    return None


def _wait_for(
    threads: Sequence[threading.Thread], deadline: float, signals: Signals
) -> signal.Signals | None:
    """Waits until the threads have ended, or a signal comes, which it gives."""
    while any(thread.is_alive() for thread in threads) and monotonic() < deadline:
        if second := signals.wait(LOOK_SECONDS):
            return second
    return None


def _report_stop(
    service: Service, logger: Logger, began: float, second: signal.Signals | None
) -> None:
    logger.info(
        "stopped",
        seconds=round(monotonic() - began, 3),
        forced_by=second and second.name,
        cut=service.cut_connections(),
        totals=service.totals(),
    )
