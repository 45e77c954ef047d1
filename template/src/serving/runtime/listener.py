"""Stop listening without resetting anybody.

A listening socket that is closed takes with it the connections that the kernel has completed and
the process has not accepted: their callers, who may have sent their request already, see a reset.
"""

import asyncio
import contextlib
import ctypes
import os
import select
import socket
import stat
import struct
import sys
from collections.abc import Iterator

HANDSHAKE_SECONDS = 0.1
"""How long handshakes that have begun may take."""

LONGEST_SECONDS = 1.0
"""How long to take in what is queued, when the event loop is busy."""

# `SO_ATTACH_FILTER` of Linux, which Python does not name, with a program (struct sock_filter) that
# drops packets with the flag SYN and lets all others pass. The packet begins with its TCP header.
# https://docs.kernel.org/networking/filter.html
_ATTACH_FILTER = 26
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte with the flags
        (0x45, 0, 1, 0x02),  # where SYN is not set, skip one
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass
    )
)


async def stop_listening() -> None:
    """Let no new connection begin, and wait until those that have begun are accepted.

    The sockets stay open: whoever listens on them closes them afterwards. It holds for all
    processes that share them, and for good. On other systems than Linux, where packets cannot be
    dropped, a connection that comes in the last instant may still be reset.
    """
    if sys.platform == "win32":
        return
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in _listeners()]
        for listener in listeners:
            _drop_new(listener)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        queued = select.poll()
        for listener in listeners:
            queued.register(listener, select.POLLIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_SECONDS):
                while queued.poll(0):
                    await asyncio.sleep(0.01)


def _listeners() -> Iterator[socket.socket]:
    """Duplicates of the sockets that this process listens on, whatever has opened them."""
    with contextlib.suppress(OSError):  # no /proc
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    continue
                listener = socket.socket(fileno=os.dup(int(name)))
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    yield listener
                else:
                    listener.close()


def _drop_new(listener: socket.socket) -> None:
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(_DROP_SYN)
    filter_ = struct.pack("HP", len(_DROP_SYN) // 8, ctypes.addressof(program))
    with contextlib.suppress(OSError):  # not everything that calls itself Linux has it
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, filter_)
