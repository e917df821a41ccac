from __future__ import annotations

import errno
import os
import socket
import struct
from threading import Lock

import pytest
from support import PATIENCE
from support.refused import Refusing

from echod.errors import SystemRefused, UsageError
from echod.loop.acceptor import ReserveDescriptor
from echod.loop.listeners import inherit
from echod.loop.sockets import (
    DONT_WAIT,
    RECV_BYTES,
    accept,
    close,
    close_with_reset,
    kind_of,
)


def test_a_close_that_reports_an_error_has_closed_the_socket() -> None:
    """EINTR and EIO come when the descriptor is free already."""
    ours, theirs = socket.socketpair()
    refusing = Refusing(fileno=ours.detach())
    refusing.refuse("close", errno.EIO)
    close(refusing)
    assert refusing.fileno() == -1
    assert theirs.recv(1) == b""
    theirs.close()


def test_no_call_on_an_accepted_socket_waits() -> None:
    """It would stop the thread that serves all connections."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), PATIENCE),
    ):
        accepted, _ = accept(listener, kind_of(listener))
        with pytest.raises(BlockingIOError):
            accepted.recv(RECV_BYTES, DONT_WAIT)
        with pytest.raises(BlockingIOError):
            while True:
                accepted.send(bytes(RECV_BYTES), DONT_WAIT)
        close_with_reset(accepted)
        close(accepted)


def test_a_reserve_whose_close_reports_an_error_is_not_closed_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its number may be another socket's by then."""
    reserve, closed = ReserveDescriptor(Lock()), []
    real = os.close

    def interrupted(descriptor: int) -> None:
        real(descriptor)
        closed.append(descriptor)
        raise OSError(errno.EINTR, "interrupted")

    monkeypatch.setattr("os.close", interrupted)
    reserve.close()
    reserve.close()
    assert len(closed) == 1


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EPERM])
def test_a_system_that_does_not_describe_an_inherited_socket_is_not_the_callers_fault(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Exit status 1, not 2: the same call may work next time."""
    given = socket.create_server(("127.0.0.1", 0)).detach()
    monkeypatch.setattr(socket, "socket", Refusing)
    monkeypatch.setattr(Refusing, "to_refuse", {"getsockopt": number})
    with pytest.raises(SystemRefused, match=f"inherited descriptor {given}: "):
        inherit(given)


def test_no_close_waits_for_a_client_whatever_the_parent_process_wants() -> None:
    """It would stop the thread that serves all connections."""
    given = socket.create_server(("127.0.0.1", 0))
    given.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    listener = inherit(given.detach()).socket
    with listener, socket.create_connection(listener.getsockname(), PATIENCE):
        accepted, _ = accept(listener, kind_of(listener))
        linger = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert struct.unpack("ii", linger)[0] == 0
        accepted.close()


def test_an_inherited_descriptor_that_is_no_socket_is_a_wrong_call() -> None:
    """A file, and one that is closed."""
    with open(os.devnull, "rb") as file:  # its descriptor is wanted
        number = file.fileno()
        with pytest.raises(
            UsageError, match=f"descriptor {number}: must be a listening TCP socket"
        ):
            inherit(number)
    with pytest.raises(UsageError, match="Bad file descriptor"):
        inherit(number)


def test_a_descriptor_for_which_there_is_no_socket_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without memory for it; otherwise its client would wait forever."""

    def without_memory(*_: object) -> None:
        raise MemoryError

    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), PATIENCE)
        monkeypatch.setattr("echod.loop.sockets.SocketType", without_memory)
        with pytest.raises(MemoryError):
            accept(listener, kind_of(listener))
        assert client.recv(1) == b""
        client.close()


def test_a_system_without_memory_for_an_inherited_socket_is_not_the_callers_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever call it refuses."""

    def refused(**_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(socket, "socket", refused)
    with pytest.raises(SystemRefused, match="inherited descriptor 3: Cannot allocate memory"):
        inherit(3)
