"""Build images of a rendered project and run containers of them."""

import contextlib
import json
import os
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import docker
import pytest
from docker.models.containers import Container
from helpers import run

# A label on all images built in this test run, to find them at its end.
SESSION = f"mmp-serving-template.tests={uuid.uuid4()}"

# No capabilities, nothing writable, no network.
HARDENED: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": {"/tmp": "mode=1777"},
    "network_mode": "none",
}


def connect() -> docker.DockerClient:
    """Return a client of the engine; without an engine skip, or fail if REQUIRE_DOCKER is set."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as exc:
        if os.environ.get("REQUIRE_DOCKER"):
            pytest.fail(f"REQUIRE_DOCKER is set, but no Docker engine answers: {exc}")
        pytest.skip("no Docker engine answers")  # allowed on machines without an engine, not in CI
    return client


def build(project: Path, *options: str | Path) -> str:
    """Build an image of the project with BuildKit, which the SDK lacks, and return its id."""
    id_file = project / ".iid"
    label = ("--label", SESSION)
    run("docker", "build", "--quiet", "--iidfile", id_file, *label, *options, ".", cwd=project)
    return id_file.read_text()


def remove_images(client: docker.DockerClient, label: str) -> None:
    """Remove all images with a label. The build cache is kept, so that the next run is quick."""
    for image in client.images.list(filters={"label": label}):
        image.remove(force=True)


def layer_files(client: docker.DockerClient, image: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of the image's files and of its metadata."""
    with tempfile.TemporaryFile() as saved:
        for chunk in client.images.get(image).save():
            saved.write(chunk)
        saved.seek(0)
        with tarfile.open(fileobj=saved) as archive:
            manifest = archive.extractfile("manifest.json")
            assert manifest
            layers: list[str] = json.load(manifest)[0]["Layers"]
            for name, content in members(archive):
                if name not in layers:
                    yield name, content.read()
                    continue
                with tarfile.open(fileobj=content) as layer:
                    yield from ((name, content.read()) for name, content in members(layer))


def members(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the name and content of each file in an archive."""
    for member in archive:
        if member.isreg() and (content := archive.extractfile(member)):
            yield member.name, content


@contextlib.contextmanager
def started(client: docker.DockerClient, image: str, **options: Any) -> Iterator[Container]:
    """Run a container in the background; remove it at the end."""
    container = client.containers.run(image, detach=True, **options)
    try:
        yield container
    finally:
        container.remove(force=True)


def sh(client: docker.DockerClient, image: str, script: str, **options: Any) -> str:
    """Run a shell script in a container of the image and return what it printed."""
    output: bytes = client.containers.run(
        image, ["-c", script], entrypoint="sh", remove=True, **options
    )
    return output.decode()


def wait_for_health(container: Container, status: str, within_seconds: float = 60) -> None:
    """Wait until the health check says `status`."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        container.reload()
        if container.health == status:
            return
        time.sleep(0.2)
    logs = container.logs().decode()
    raise AssertionError(f"{container.health}, not {status}\n{logs}")


def ask(container: Container, path: str, body: Any = None, status: int = 200) -> Any:
    """Send a request from inside the container, with Python because it has no curl."""
    script = (
        "import http.client, os, sys; "
        "c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT'])); "
        "c.request('POST' if sys.argv[2] else 'GET', sys.argv[1], sys.argv[2] or None, "
        "{'Content-Type': 'application/json'}); "
        "r = c.getresponse(); print(r.status, r.read().decode())"
    )
    data = "" if body is None else json.dumps(body)
    answer = container.exec_run(["python", "-c", script, path, data])
    output = bytes(answer.output).decode()  # type: ignore[arg-type]  # bytes, as nothing streams
    assert answer.exit_code == 0, output
    answered, _, content = output.partition(" ")
    assert answered == str(status), output
    return json.loads(content)
