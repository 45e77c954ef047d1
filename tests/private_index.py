"""A package index with TLS and a login, run in a container; it serves a directory of wheels.

    python private_index.py WHEELS CERTIFICATE KEY LOGIN     LOGIN is user:password

Prints a line for each request: method, status and path. Standard library only.
https://packaging.python.org/en/latest/specifications/simple-repository-api/
"""

import base64
import hashlib
import http.server
import re
import ssl
import sys
from pathlib import Path
from typing import Any


def normal(name: str) -> str:
    """The normalised name of a project."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Index(http.server.BaseHTTPRequestHandler):
    """/simple/PROJECT/ lists the wheels of a project; /wheels/FILE is a wheel."""

    wheels: Path
    login: str

    def do_GET(self) -> None:
        """Answer requests that have the login."""
        expected = "Basic " + base64.b64encode(self.login.encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.answer(401, b"", **{"WWW-Authenticate": 'Basic realm="index"'})
            return
        folder, _, name = self.path.strip("/").partition("/")
        wheel = self.wheels / Path(name).name
        if folder == "simple" and name:
            self.answer(200, self.links(name).encode(), **{"Content-Type": "text/html"})
        elif folder == "wheels" and wheel.is_file():
            self.answer(200, wheel.read_bytes())
        else:
            self.answer(404, b"")

    do_HEAD = do_GET  # uv checks whether it can fetch parts of a wheel; it cannot

    def links(self, project: str) -> str:
        """The page of one project: its wheels with their hashes."""
        return "\n".join(
            f'<a href="/wheels/{wheel.name}#sha256='
            f'{hashlib.sha256(wheel.read_bytes()).hexdigest()}">{wheel.name}</a>'
            for wheel in sorted(self.wheels.glob("*.whl"))
            if normal(wheel.name.split("-")[0]) == project
        )

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print method, status and path; ignore the format."""
        if len(args) == 3:  # a request; connection errors have other arguments
            print(self.command, args[1], self.path, flush=True)


def main() -> None:
    """Serve until the container is removed."""
    wheels, certificate, key, Index.login = sys.argv[1:]
    Index.wheels = Path(wheels)
    server = http.server.ThreadingHTTPServer(("", 443), Index)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    print("listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
