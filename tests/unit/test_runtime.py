from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from echod.config import runtime
from echod.config.options import load
from echod.errors import SystemRefused
from echod.loop.listeners import Listener, bind, listen
from echod.process.lifecycle import thread_count


def test_threads_are_one_with_a_gil_and_one_a_cpu_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one would only fight for the lock."""
    config = load({"ports": "0", "prefix": "x"}, {})
    monkeypatch.setattr("echod.process.lifecycle.gil_enabled", lambda: True)
    assert thread_count(config) == 1
    monkeypatch.setattr("echod.process.lifecycle.gil_enabled", lambda: False)
    assert thread_count(config) == runtime.usable_cpus() >= 1
    assert thread_count(load({"ports": "0", "prefix": "x", "handler_threads": "7"}, {})) == 7


def test_the_gil_is_what_the_interpreter_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreters that do not say have one."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not runtime.gil_enabled()
    monkeypatch.delattr(sys, "_is_gil_enabled")
    assert runtime.gil_enabled()


def test_cpus_are_those_of_the_process_or_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system can tell the former."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert runtime.usable_cpus() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert runtime.usable_cpus() == (os.cpu_count() or 1)


class Limits:
    """Replaces the kernel's."""

    def __init__(self, soft: int, hard: int, *, refuse: bool = False) -> None:
        self.now, self.refuse = (soft, hard), refuse

    def get(self, _: int) -> tuple[int, int]:
        return self.now

    def set(self, _: int, wanted: tuple[int, int]) -> None:
        if self.refuse:
            raise ValueError
        self.now = wanted


@pytest.mark.parametrize(
    ("limits", "gives"),
    [
        (Limits(1024, 20_000), 20_000),
        (Limits(500, 500), 500),
        (Limits(256, resource.RLIM_INFINITY, refuse=True), 256),
        (Limits(256, resource.RLIM_INFINITY), sys.maxsize),
    ],
)
def test_the_open_file_limit_is_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, limits: Limits, gives: int
) -> None:
    """A soft limit is a default, not a decision."""
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    assert runtime.raise_open_file_limit() == gives


def test_where_ipv6_is_missing_ipv4_is_bound_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """:: means everything there is."""

    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = socket.AF_INET, *rest: Any, **more: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *rest, **more)

    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with bind("PORTS", "::", 0).socket as bound:
        assert bound.family == socket.AF_INET
        assert Listener(bound).address == f"0.0.0.0:{bound.getsockname()[1]}"
    with pytest.raises(SystemRefused, match=r"\[::1\]:0: Address family not supported"):
        bind("PORTS", "::1", 0)


def test_the_options_of_other_systems_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has another name for one of them."""
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    with bind("PORTS", "127.0.0.1", 0).socket as bound:
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_listening_is_refused_as_clearly_as_binding() -> None:
    """Two may bind one port with SO_REUSEADDR; the second to listen is refused."""
    first = bind("PORTS", "127.0.0.1", 0)
    with first.socket, bind("PORTS", "127.0.0.1", first.port).socket as second:
        listen(first)
        with pytest.raises(SystemRefused, match=f"127.0.0.1:{first.port}: Address already in use"):
            listen(Listener(second))


def test_a_port_below_1024_names_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason and the remedy."""

    class Unprivileged(socket.socket):
        def bind(self, _: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Unprivileged)
    with pytest.raises(SystemRefused, match=r"PORTS 7: .*Permission denied .*CAP_NET_BIND_SERVICE"):
        bind("PORTS", "127.0.0.1", 7)


def test_an_address_of_an_interface_that_is_not_there_is_refused() -> None:
    """getaddrinfo's own errors have no number of the system's."""
    with pytest.raises(SystemRefused, match="fe80::1%nowhere0"):
        bind("PORTS", "fe80::1%nowhere0", 0)


def test_descriptors_that_were_closed_are_filled_for_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No socket may take the number of standard output."""
    numbers = iter([0, 1, 5])
    flags: list[int] = []
    closed: list[int] = []

    def fake_open(_: str, how: int) -> int:
        flags.append(how)
        return next(numbers)

    monkeypatch.setattr(os, "open", fake_open)
    monkeypatch.setattr(os, "close", closed.append)
    runtime.fill_standard_descriptors()
    assert (flags, closed) == ([os.O_RDONLY] * 3, [5])


def test_a_bare_chroot_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """No /dev there: an estimate has to do, and closed descriptors stay closed."""

    def missing(*_: object) -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(os, "listdir", missing)
    assert runtime.open_files() == 3
    monkeypatch.setattr(os, "open", missing)
    runtime.fill_standard_descriptors()


def test_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does nothing where that is impossible: musl, a sandbox, no free descriptor."""
    asked: list[int] = []
    library = SimpleNamespace(malloc_trim=asked.append)
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    runtime.give_back_memory()
    assert asked == [0]
    for error in (OSError, MemoryError, AttributeError):
        library.malloc_trim = raising(error)
        runtime.give_back_memory()
    monkeypatch.setitem(sys.modules, "ctypes", None)
    runtime.give_back_memory()


def test_threads_can_share_a_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only glibc gives each its own; others have no such knob."""
    asked: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *words: asked.append(words))
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    runtime.share_one_heap()
    assert asked == [(-8, 1)]
    del library.mallopt
    runtime.share_one_heap()


def raising(error: type[Exception]) -> Callable[[int], NoReturn]:
    def call(_: int) -> NoReturn:
        raise error

    return call
