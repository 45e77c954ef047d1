"""Stop listening without resetting connections.

Closing a listening socket resets the connections that the kernel has completed and the process has
not yet accepted, although their callers may have sent a request already.
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
"""How long pending handshakes may take."""

LONGEST_SECONDS = 1.0
"""How long to accept queued connections if the event loop is busy."""

# Linux's `SO_ATTACH_FILTER`, which Python does not define, with a program (struct sock_filter) that
# drops packets with the SYN flag and passes all others. A packet begins with its TCP header.
# https://docs.kernel.org/networking/filter.html
_ATTACH_FILTER = 26
_DROP_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte with the flags
        (0x45, 0, 1, 0x02),  # if SYN is not set, skip one instruction
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass
    )
)


async def stop_listening() -> None:
    """Block new connections, and wait until pending ones are accepted.

    The sockets stay open; their owner closes them afterwards. The block is permanent and applies to
    all processes that share the sockets. Only Linux can drop packets: on other systems a connection
    that arrives at the last moment may still be reset.
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
    """Duplicates of all sockets that this process listens on."""
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
    with contextlib.suppress(OSError):  # some Linux-compatible kernels lack it
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, filter_)
