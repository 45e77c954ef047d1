"""`make bench-image`: measure the images of a rendered project, and two others for comparison.

Renders the template from the working tree and trains on the example's data. Builds the project's
images, the image of `mlflow models generate-dockerfile` for the same model, and one image with
everything (everything.Dockerfile). Measures them one after the other, and writes the table into
benchmarks/README.md. Needs a Docker engine and base images (.ci/run makes both); takes about ten
minutes.
"""

import contextlib
import http.client
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench-image"
PROJECT = WORK / "project"
REPORT = ROOT / "benchmarks" / "README.md"
MARKS = ("<!-- images: begin -->", "<!-- images: end -->")

STARTS = 3
READY_WITHIN_SECONDS = 120
SETTLE_SECONDS = 3
CLIENTS = 8
LOAD_SECONDS = 10
GZIP_LEVEL = 6
LIBRARIES = ("fastapi", "mlflow-skinny", "scikit-learn", "pandas", "numpy", "onnxruntime")

# The project must not see an environment that is active in the caller's shell.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
}


@dataclass
class Service:
    """How to start a container of an image and how to query it."""

    port: int
    ready: str
    predict: str = ""
    request: Any = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Candidate:
    """A row of the table: an image, and how to run it if it is a server."""

    name: str
    image: str
    service: Service | None = None


@dataclass
class Figures:
    """The measurements of one image, in bytes and seconds."""

    size: int
    compressed: int
    layers: int
    start: float | None = None
    idle: int | None = None
    loaded: int | None = None


def main() -> None:
    """Build everything, then measure everything, then write the report."""
    client = docker.from_env()
    remove_images(client)  # those of an interrupted run
    render()
    model = train()
    try:
        rows = candidates(client, model)
        gzipped: dict[str, int] = {}
        measured = [(row, measure(client, row, gzipped)) for row in rows]
        report = "\n\n".join([table(measured), notes(client, rows)])
    finally:
        remove_images(client)
    print(f"\n{report}")
    write(report)


# ---------------------------------------------------------------------- what is measured


def render() -> None:
    """Render the template from the working tree, including uncommitted changes."""
    shutil.rmtree(WORK, ignore_errors=True)
    options = ["--defaults", "--quiet", "--vcs-ref", "HEAD"]
    run(sys.executable, "-W", "ignore", "-m", "copier", "copy", *options, ROOT, PROJECT)
    run(find_uv_bin(), "sync", "--quiet", cwd=PROJECT)


def train() -> Path:
    """Train the example's recipe and return the directory of the compiled model."""
    run(find_uv_bin(), "run", "mmp", "train", cwd=PROJECT)
    [logged] = PROJECT.glob("mlruns/*/models/*/artifacts/MLmodel")
    return logged.parent


def candidates(client: docker.DockerClient, compiled: Path) -> list[Candidate]:
    """Build the images, one at a time: ours, MLflow's, and the one with everything."""
    # The model without its compiled form, for the rows served natively and for other systems.
    without = shutil.ignore_patterns("compiled")
    model: Path = shutil.copytree(compiled, WORK / "model", ignore=without)
    python = (PROJECT / ".python-version").read_text().strip()
    base = f"python:{python}-slim"
    newer = ("--build-arg", "PYTHON_VERSION=3.13")
    tracking = build("mlflow", "--target", "mlflow")
    api = build("api", "--target", "api")
    row = example(client, api, model)
    ours = Service(8000, "/ready", "/predict", row, mounted(model))
    graph = Service(8000, "/ready", "/predict", row, mounted(compiled))
    baked = Service(8000, "/ready", "/predict", row)
    scoring = Service(8080, "/ping", "/invocations", {"dataframe_records": [row]})
    inside = ("--target", "api-with-model", "--build-context", f"model={model}")
    graph_inside = ("--target", "compiled-with-model", "--build-context", f"model={compiled}")
    return [
        Candidate("base image", base),
        Candidate("**api**", api, graph),
        Candidate("**api**, natively", api, ours),
        Candidate("**api** with its model, natively", build("api-with-model", *inside), baked),
        Candidate("**compiled**", build("compiled", "--target", "compiled"), graph),
        Candidate(
            "**compiled** with its model", build("compiled-with-model", *graph_inside), baked
        ),
        Candidate("**training**", build("training", "--target", "training")),
        Candidate("**inference**", build("inference", "--target", "inference")),
        Candidate("**mlflow** (tracking server)", tracking, Service(5000, "/health")),
        Candidate("MLflow's Dockerfile", build_generated(tracking, model, base), scoring),
        Candidate("one image with everything", build_everything(base), ours),
        Candidate("base image, Python 3.13", "python:3.13-slim"),
        Candidate("**api**, Python 3.13", build("api-3.13", "--target", "api", *newer), graph),
    ]


def mounted(model: Path) -> dict[str, Any]:
    """Options of a container with its model in a volume."""
    return {"volumes": [f"{model}:/model:ro"], "environment": {"MODEL_URI": "/model"}}


def build(name: str, *options: str | Path, context: Path = PROJECT) -> str:
    """Build an image and return its tag. Layers in the build cache are reused."""
    tag = f"bench-image:{name}"
    run("docker", "build", "--quiet", "--tag", tag, *options, context)
    return tag


def build_generated(tracking: str, model: Path, base: str) -> str:
    """Build the Dockerfile that MLflow generates; the generator runs in our tracking image."""
    output = WORK / "generated"
    output.mkdir()
    command = ["models", "generate-dockerfile", "--env-manager", "local"]
    run(
        *("docker", "run", "--rm", "--network", "none", "--user", f"{os.getuid()}:{os.getgid()}"),
        *("--volume", f"{model}:/model:ro", "--volume", f"{output}:/output", tracking),
        *(*command, "--model-uri", "/model", "--output-directory", "/output"),
    )
    dockerfile = output / "Dockerfile"
    text, changed = re.subn(r"^FROM .*", f"FROM {base}", dockerfile.read_text(), flags=re.M)
    if changed != 1:
        raise SystemExit("the Dockerfile that MLflow generates has changed: expected one FROM")
    dockerfile.write_text(text)
    return build("generated", context=output)


def build_everything(base: str) -> str:
    """Build the image with everything, with all dependency groups of the project."""
    groups = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]
    arguments = ("--build-arg", f"GROUPS={' '.join(groups)}", "--build-arg", f"BASE_IMAGE={base}")
    return build("everything", "--file", ROOT / "benchmarks/everything.Dockerfile", *arguments)


def remove_images(client: docker.DockerClient) -> None:
    """Remove the images from build(); Docker's build cache is kept."""
    for image in client.images.list("bench-image"):
        image.remove(force=True)


def example(client: docker.DockerClient, api: str, model: Path) -> Any:
    """The row that the OpenAPI document gives as an example."""
    service = Service(8000, "/ready", options=mounted(model))
    with started(client, api, service) as (_, port):
        _, document = ask(port, "/openapi.json")
    return json.loads(document)["components"]["schemas"]["PredictionRequest"]["example"]


# ---------------------------------------------------------------------------- measuring


def measure(client: docker.DockerClient, row: Candidate, gzipped: dict[str, int]) -> Figures:
    """Measure one image; for a server, also a few starts and a load."""
    print(f"measuring {row.name}", flush=True)
    attributes = client.images.get(row.image).attrs
    layers = len(attributes["RootFS"]["Layers"])
    figures = Figures(attributes["Size"], compressed_size(client, row.image, gzipped), layers)
    if row.service:
        figures.start = statistics.median(
            seconds_to_ready(client, row.image, row.service) for _ in range(STARTS)
        )
        with started(client, row.image, row.service) as (container, port):
            time.sleep(SETTLE_SECONDS)
            figures.idle = memory(container)
            if row.service.predict:
                figures.loaded = memory_under_load(container, port, row.service)
    return figures


def compressed_size(client: docker.DockerClient, image: str, gzipped: dict[str, int]) -> int:
    """The sum of the image's layers, each gzipped as in a registry.

    Args:
        gzipped: Cache of layer sizes by digest, as images share layers; new sizes are added.
    """
    with tempfile.TemporaryFile() as file:
        for chunk in client.images.get(image).save():
            file.write(chunk)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            manifest = archive.extractfile("manifest.json")
            assert manifest
            layers: list[str] = json.load(manifest)[0]["Layers"]
            for layer in set(layers) - gzipped.keys():
                gzipped[layer] = gzipped_size(archive, layer)
    return sum(gzipped[layer] for layer in layers)


def gzipped_size(archive: tarfile.TarFile, member: str) -> int:
    """The size of a gzipped member of the archive, in bytes."""
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=31)
    content = archive.extractfile(member)
    assert content
    size = 0
    while chunk := content.read(1 << 20):
        size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def seconds_to_ready(client: docker.DockerClient, image: str, service: Service) -> float:
    """Seconds from `docker run` to the first answer that the container is ready."""
    before = time.monotonic()
    with started(client, image, service):
        return time.monotonic() - before


@contextlib.contextmanager
def started(
    client: docker.DockerClient, image: str, service: Service
) -> Iterator[tuple[Container, int]]:
    """Run a container until the block ends; yield it when it is ready, with its loopback port."""
    port = free_port()
    ports = {f"{service.port}/tcp": ("127.0.0.1", port)}
    container = client.containers.run(image, detach=True, ports=ports, **service.options)
    try:
        wait_until_ready(container, port, service.ready)
        yield container, port
    finally:
        container.remove(force=True)


def wait_until_ready(container: Container, port: int, path: str) -> None:
    """Query until the answer is 200; the port is open before the server listens."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(port, path)[0] == http.client.OK:
                return
        time.sleep(0.02)
    raise SystemExit(f"{path} never answered 200\n{container.logs(tail=40).decode()}")


def memory(container: Container) -> int:
    """Bytes as `docker stats` shows them: the usage of the cgroup without inactive file cache."""
    answer: Any = container.stats(stream=False, one_shot=True)
    stats = answer["memory_stats"]
    detail = stats["stats"]
    cached = detail.get("total_inactive_file", detail.get("inactive_file", 0))  # cgroup v1, v2
    return int(stats["usage"]) - int(cached)


def memory_under_load(container: Container, port: int, service: Service) -> int:
    """The maximum of memory while clients request predictions in a closed loop."""
    deadline = time.monotonic() + LOAD_SECONDS
    failures: list[str] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while time.monotonic() < deadline and not failures:
            status, answer = ask(port, service.predict, service.request, connection)
            if status != http.client.OK:
                failures.append(f"{service.predict} answered {status}: {answer}")

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, memory(container))
        time.sleep(0.2)
    if failures:
        raise SystemExit(failures[0])
    return most


def ask(
    port: int, path: str, body: Any = None, connection: http.client.HTTPConnection | None = None
) -> tuple[int, str]:
    """Send a request, a POST if it has a body; return the status and text of the response."""
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"Content-Type": "application/json"}
    content = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, content, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


# ----------------------------------------------------------------------------- reporting


def table(measured: list[tuple[Candidate, Figures]]) -> str:
    """The figures as a Markdown table."""
    head = ["image", "size", "compressed", "layers", "start to ready", "memory idle", "under load"]
    rows = [
        [
            row.name,
            megabytes(figures.size),
            megabytes(figures.compressed),
            str(figures.layers),
            f"{figures.start:.1f} s" if figures.start else "",
            megabytes(figures.idle),
            megabytes(figures.loaded),
        ]
        for row, figures in measured
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def megabytes(value: int | None) -> str:
    """Bytes in units of 1,000,000, as Docker counts them."""
    return "" if value is None else f"{value / 1e6:.0f} MB"


def notes(client: docker.DockerClient, rows: list[Candidate]) -> str:
    """The machine and the software of the measurement."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [
        f"Machine: {os.cpu_count()} cores ({processor()}), {memory_gb:.0f} GB of memory, "
        f"{platform.system()} {platform.machine()}, "
        f"Docker Engine {client.version()['Version']}, "
        f"cgroup v{client.info()['CgroupVersion']}.",
        *(f"{', '.join(names)}: {same}." for same, names in by_versions(client, rows).items()),
        *stand_ins(client, rows),
    ]
    return "\n".join(f"- {line}" for line in lines)


def by_versions(client: docker.DockerClient, rows: list[Candidate]) -> dict[str, list[str]]:
    """The versions in the images that answer predictions."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.service and row.service.predict:
            found.setdefault(versions(client, row.image), []).append(row.name)
    return found


def processor() -> str:
    """The model of the CPU."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.processor() or "unknown"


def versions(client: docker.DockerClient, image: str) -> str:
    """The versions of Python and the libraries in an image."""
    script = (
        "import contextlib, platform, sys; from importlib.metadata import *\n"
        "print('Python', platform.python_version())\n"
        "for name in sys.argv[1:]:\n"
        "  with contextlib.suppress(PackageNotFoundError): print(name, version(name))"
    )
    command = ["-c", script, *LIBRARIES]
    output: bytes = client.containers.run(image, command, entrypoint="python", remove=True)
    return ", ".join(output.decode().split("\n")[:-1])


def stand_ins(client: docker.DockerClient, rows: list[Candidate]) -> list[str]:
    """A note if a base image is not an official one (see .ci/base-image)."""
    names = [
        row.image
        for row in rows
        if any("stand-in" in layer["Comment"] for layer in client.images.get(row.image).history())
        and not row.image.startswith("bench-image:")
    ]
    if not names:
        return []
    return [
        f"No image registry was at hand: {' and '.join(f'`{name}`' for name in names)} are "
        "stand-ins made from Debian packages (`.ci/base-image`); the official images differ in "
        "size."
    ]


def write(report: str) -> None:
    """Put the report between the marks of benchmarks/README.md."""
    begin, end = MARKS
    before, _, rest = REPORT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    REPORT.write_text(f"{before}{begin}\n{report}\n{end}{after}")


# --------------------------------------------------------------------------------- tools


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return what it printed on stdout."""
    words = [str(word) for word in command]
    print("$", " ".join(words).replace(str(ROOT), "."), flush=True)
    result = subprocess.run(words, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    if result.returncode != 0:
        output = (result.stdout + result.stderr)[-4000:]
        raise SystemExit(f"exit code {result.returncode}\n{output}")
    return result.stdout


def free_port() -> int:
    """Return a port that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
