"""The life of the process: starting, ready, draining and stopped."""

from __future__ import annotations

import gc
import os
import platform
import threading
from contextlib import ExitStack
from signal import Signals
from time import monotonic

from echod import __version__
from echod.config.options import Config
from echod.config.runtime import gil_enabled, open_files, raise_open_file_limit
from echod.errors import refusals
from echod.loop.listeners import Listener, bind
from echod.loop.sockets import close
from echod.loop.tuning import summed_up
from echod.process.capacity import Capacity, capacity
from echod.process.lifecycle import Service, State, thread_count
from echod.process.main_loop import MainLoop, force_hint
from echod.process.shutdown import retried, steps, take
from echod.process.signals import StopRequest, StopSignals
from echod.process.systemd import InheritedSockets, ServiceManager
from echod.telemetry.events import Logger, described
from echod.telemetry.log_writer import QUEUED_EVENTS, LogWriter, make_logger
from echod.texts import decoded

OPEN_FILES_PER_THREAD = 4
"""The poller, the two sockets that wake the thread, and one connection that is about to close,
whose slot is already free."""
RESERVE_OPEN_FILES = 1
"""The reserve descriptor of the exporter."""
LOG_SECONDS = 0.2
FORCED_LOG_SECONDS = 0.05
"""Maximum wait at the end for a stalled log reader."""
LATE_LOG_SECONDS = 0.5
"""Maximum further wait for the log writer's thread, on a busy machine."""
STDOUT = 1


def serve(
    config: Config, signals: StopSignals, inherited: InheritedSockets, manager: ServiceManager
) -> int:
    """Serve until a signal, then drain; return the exit status.

    Raises SystemRefused, before any port listens, if the system refuses something.
    """
    began = monotonic()
    with ExitStack() as sockets:
        writer = LogWriter(STDOUT, QUEUED_EVENTS + len(config.ports))  # the start reports each port
        logger = _logger(config, writer)
        with refusals("cannot start"):
            service = _service(config, inherited, sockets, writer, logger)
            _start(config, service, logger)
        _report_doubts(service, inherited, manager, logger)
        logger.info("ready", seconds=round(monotonic() - began, 3))
        main_loop = MainLoop(service, signals, manager, logger)
        main_loop.ready()
        first = main_loop.wait()
        forced = _shut_down(config, service, main_loop, logger, first)
        retried(lambda: _report_stop(service, logger, began, forced))
        seconds = FORCED_LOG_SECONDS if forced else LOG_SECONDS
        retried(lambda: writer.close(seconds, LATE_LOG_SECONDS))
        gc.freeze()  # saves the interpreter's last collections, which take 40 ms of CPU
        return 128 + forced if forced else 0


def _service(
    config: Config,
    inherited: InheritedSockets,
    sockets: ExitStack,
    writer: LogWriter,
    logger: Logger,
) -> Service:
    """All parts, with bound sockets, which ``sockets`` closes, and limits that fit the open-file
    limit. Raises SystemRefused.
    """
    fits = _capacity(config, inherited)
    ports = list(inherited.echo) or [
        _bound(sockets, "PORTS", config.address, port) for port in config.ports
    ]
    metrics = inherited.metrics[0] if inherited.metrics else None
    if metrics is None and config.metrics_port is not None:
        option = "--metrics-port"
        metrics = _bound(sockets, option, config.metrics_address, config.metrics_port)
    with refusals("cannot create event loops"):
        return Service(config, ports, metrics, fits, writer, logger)


def _capacity(config: Config, inherited: InheritedSockets) -> Capacity:
    """The limits that fit the raised open-file limit; sockets still to be bound are counted."""
    limit = raise_open_file_limit()
    own = OPEN_FILES_PER_THREAD * thread_count(config)
    if not inherited.echo:
        own += len(config.ports)
    has_metrics = bool(inherited.metrics) or config.metrics_port is not None
    if has_metrics:
        own += OPEN_FILES_PER_THREAD + RESERVE_OPEN_FILES + (not inherited.metrics)
    return capacity(config, limit, open_files() + own, metrics=has_metrics)


def _start(config: Config, service: Service, logger: Logger) -> None:
    """Listen once every thread runs. If the system refuses any of it, end all threads."""
    try:
        service.start_threads()
        service.listen()
        _report_start(config, service, logger)
        with refusals("cannot start accepting"):
            service.start()
    except BaseException:
        service.abandon()
        raise


def _bound(sockets: ExitStack, option: str, address: str, port: int) -> Listener:
    listener = bind(option, address, port)
    sockets.callback(close, listener.socket)
    return listener


def _logger(config: Config, writer: LogWriter) -> Logger:
    terminal = os.isatty(STDOUT)
    console = config.log_format == "console" or (config.log_format == "auto" and terminal)
    logger = make_logger(
        writer, config.log_level, console=console, colors=terminal and config.colors
    )
    threading.excepthook = lambda fault: logger.error(
        "thread died", thread=fault.thread and fault.thread.name, **described(fault.exc_value)
    )
    return logger


def _report_start(config: Config, service: Service, logger: Logger) -> None:
    fits = service.capacity
    logger.info(
        "starting",
        release=__version__,
        python=platform.python_version(),
        gil=gil_enabled(),
        pid=os.getpid(),
        version=config.service_version,
        handler_threads=len(service.handlers),
        max_connections=fits.connections,
    )
    if fits.lowered(config):
        logger.warning(
            "limits lowered to fit the open-file limit",
            open_files=fits.open_files,
            max_connections=fits.connections,
            wanted=config.max_connections,
            metrics_clients=fits.metrics_clients,
        )
    for server in service.servers:
        # As tcp-echo words it: scripts grep for it.
        words = f"listening on {server.listener.address}, prefix: {decoded(config.prefix)}"
        logger.info(words, port=server.listener.port)
    if service.exporter:
        listener = service.exporter.listener
        logger.info(f"metrics on {listener.address}", port=listener.port)


def _report_doubts(
    service: Service, inherited: InheritedSockets, manager: ServiceManager, logger: Logger
) -> None:
    """Warn, once for all ports, of requested settings that are not in effect."""
    listeners = [server.listener for server in service.servers]
    if service.exporter:
        listeners.append(service.exporter.listener)
    if facts := summed_up(one for listener in listeners for one in listener.tuning.refused):
        logger.warning("socket options refused", **facts)
    if inherited.ignored:
        logger.warning("inherited sockets ignored", reason=inherited.ignored)
    if manager.watchdog_ignored:
        logger.warning("watchdog ignored", reason=manager.watchdog_ignored)


def _shut_down(
    config: Config,
    service: Service,
    main_loop: MainLoop,
    logger: Logger,
    first: StopRequest | None,
) -> Signals | None:
    """Drain and stop. Return early if a signal forces the exit, with that signal."""
    service.state = State.DRAINING
    retried(lambda: _report_drain(config, service, logger, first))
    most = config.drain_delay + config.drain_timeout
    deadline = monotonic() + most  # however long the steps before the drain take
    retried(lambda: main_loop.stopping(most))
    return take(retried(lambda: steps(config, service, deadline)), main_loop)


def _report_drain(
    config: Config, service: Service, logger: Logger, first: StopRequest | None
) -> None:
    logger.info(
        "draining",
        signal=first and first.signal.name,
        force=first and force_hint(first),
        delay=config.drain_delay,
        timeout=config.drain_timeout,
        connections=service.open_connections(),
    )


def _report_stop(service: Service, logger: Logger, began: float, forced: Signals | None) -> None:
    service.events.summarize(now=True)
    logger.info(
        "stopped",
        seconds=round(monotonic() - began, 3),
        forced_by=forced and forced.name,
        cut=service.cut_connections(),
        totals=service.totals(),
    )
