"""Stopping without a reset."""

import asyncio
import os
import resource
import socket

from serving.runtime.listener import stop_listening


def test_more_than_a_thousand_connections_do_not_keep_it_from_stopping() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        others = [os.dup(listener.fileno()) for _ in range(1100)]
        try:
            asyncio.run(stop_listening())
        finally:
            for other in others:
                os.close(other)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
