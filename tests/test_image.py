"""Images of rendered projects: what is in them, and how they run on a real engine."""

import base64
import contextlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from conftest import Render
from docker.models.containers import Container
from helpers import ALL_STAGES, QUESTIONS, ROOT, STAGE_SETS, WRONG_RECORDS, run, uv
from images import (
    HARDENED,
    SESSION,
    ask,
    build,
    connect,
    layer_files,
    remove_images,
    sh,
    started,
    wait_for_health,
)
from serving import logged_model, train

BUDGET_MB = {"api": QUESTIONS["image_size_budget_mb"]["default"]}
BUDGET_MB |= {"training": 750, "inference": 650, "compile": 650, "mlflow": 900}
BUDGET_MB |= {"spark": 1300}  # PySpark is 410 MB, Java 210 MB
BUDGET_MB |= {"compiled": 380, "compiled-with-model": 300}
COMMANDS = {"api": "serve-api", "training": "train", "inference": "batch-inference"}
COMMANDS |= {"spark": "batch-inference", "compile": "compile", "compiled": "serve-api"}
SERVING = {"api", "compiled"}
BASE = "python:3.11-slim"
needs_docker = pytest.mark.docker


@pytest.mark.parametrize("stages", STAGE_SETS, ids="+".join)
def test_the_dockerfile_has_no_findings(render: Render, stages: tuple[str, ...]) -> None:
    project = render(stages=stages)
    found = run(Path(sys.executable).with_name("hadolint"), "Dockerfile", cwd=project, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("stages", STAGE_SETS, ids="+".join)
def test_the_compose_file_has_no_findings(render: Render, stages: tuple[str, ...]) -> None:
    project = render(stages=stages)
    lint = Path(sys.executable).with_name("compose-lint")
    config = ("--config", ROOT / "tests/compose-lint.yml", "--strict-config")
    found = run(
        lint, "check", *config, "--fail-on", "low", "compose.yaml", cwd=project, check=False
    )
    assert found.returncode == 0, found.stdout


def test_the_dockerfile_needs_no_registry_but_for_its_base(render: Render) -> None:
    text = (render() / "Dockerfile").read_text()
    sources = [line.split()[1] for line in text.splitlines() if line.startswith("FROM ")]
    stages = [line.split()[-1] for line in text.splitlines() if line.startswith("FROM ")]
    assert set(sources) - set(stages) == {"scratch", "${BASE_IMAGE}"}
    assert "# syntax" not in text
    assert stages[-1] == "api"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = connect()
    yield client
    remove_images(client, SESSION)


@pytest.fixture(scope="module")
def project(render: Render, engine: docker.DockerClient) -> Path:
    """A project with all stages, a lock, and files that no image may contain."""
    project = render(project_name="Image")
    uv("sync", "--quiet", cwd=project)
    (project / ".env").write_text("PASSWORD=hunter2\n")
    return project


@pytest.fixture(scope="module")
def model(project: Path) -> Path:
    """The directory of a trained and compiled model."""
    return logged_model(project, train(project))


@pytest.fixture(scope="module", params=["3.11", "3.13"])
def images(request: pytest.FixtureRequest, project: Path) -> dict[str, str]:
    """The image of each stage; for 3.11 from uv.lock, for 3.13 without a lock.

    For 3.13, stages that are part of `training` have no image.
    """
    version = ("--build-arg", f"PYTHON_VERSION={request.param}")
    lock = project / "uv.lock"
    aside = lock.rename(lock.with_suffix(".aside")) if request.param == "3.13" else None
    try:
        stages = {*ALL_STAGES, "compiled", "mlflow"}
        if request.param == "3.13":
            stages -= {"inference", "compile"}
        elif os.environ.get("LONG_TESTS"):  # it takes minutes
            stages.add("spark")
        return {stage: build(project, *version, "--target", stage) for stage in stages}
    finally:
        if aside:
            aside.rename(lock)


@pytest.fixture(scope="module")
def with_model(project: Path, model: Path, engine: docker.DockerClient) -> str:
    """The API with a model inside."""
    return build(project, "--target", "api-with-model", "--build-context", f"model={model}")


@pytest.fixture(scope="module")
def compiled_with_model(project: Path, model: Path, engine: docker.DockerClient) -> str:
    """The API with a compiled model inside."""
    inside = ("--build-context", f"model={model}")
    return build(project, "--target", "compiled-with-model", *inside)


@needs_docker
def test_images_are_small_and_unprivileged(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    for stage, image in images.items():
        attributes = engine.images.get(image).attrs
        assert attributes["Size"] / 1e6 < BUDGET_MB[stage], stage
        config = attributes["Config"]
        assert config["User"] == "1001:0"
        assert bool(config.get("Healthcheck")) == (stage in SERVING)
        assert config["Labels"]["org.opencontainers.image.title"] == "image"
        if stage in COMMANDS:
            assert (config["Entrypoint"], config["Cmd"]) == (["mmp"], [COMMANDS[stage]])


@needs_docker
def test_images_hold_only_what_they_need(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    for stage, image in images.items():
        found = sh(
            engine,
            image,
            "which pip pip3 uv curl wget gcc cc make git;"
            "python -m pip --version 2>/dev/null;"
            "find / -xdev -perm /6000 -type f;"  # setuid and setgid files
            "find / -xdev -name .env -o -name 'penguins.csv' -o -name '*.lock' -path '/app/*';"
            "ls -A /var/lib/apt/lists; find /usr -xdev -name '*.pyc';"  # read from /app/.pycache
            "find /app -not -user 0 -o -perm /022 -not -type l;"  # writable or not root's
            "find /app -type d -name tests -path '*/scipy/*'",
            user="0",
        )
        assert found == "", stage
        history = json.dumps(engine.images.get(image).history())
        assert "hunter2" not in history
    libraries = sh(engine, images["api"], "ls /app/.venv/lib/python3*/site-packages")
    assert not {"pyarrow", "sqlalchemy", "alembic", "pytest"} & set(libraries.lower().split())


@needs_docker
def test_records_agree_with_the_files(engine: docker.DockerClient, images: dict[str, str]) -> None:
    """Scanners and SBOM tools rely on the records."""
    for stage, image in images.items():
        python = ["python", "-I", "-c"]
        printed = engine.containers.run(image, [WRONG_RECORDS], entrypoint=python, remove=True)
        assert printed == b"", stage


@pytest.fixture(scope="module")
def with_storage(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a dependency of the user's, to load a model from gs://."""
    changed = tmp_path_factory.mktemp("storage") / "project"
    ignore = shutil.ignore_patterns(".venv", "mlruns", "mlflow.db")
    shutil.copytree(project, changed, ignore=ignore)
    uv("add", "--quiet", "--no-sync", "--group", "tracking", "google-cloud-storage", cwd=changed)
    return changed


@needs_docker
def test_what_a_dependency_of_the_users_needs_is_in_the_image(
    engine: docker.DockerClient, with_storage: Path
) -> None:
    """The API does not need google-auth, but google-cloud-storage does."""
    image = build(with_storage, "--target", "compiled")
    script = (
        "from google.cloud.storage import Client; Client.create_anonymous_client();"
        "from mlflow.store.artifact import artifact_repository_registry as registry;"
        "print(type(registry.get_artifact_repository('gs://bucket/model')).__name__)"
    )
    assert sh(engine, image, f'python -c "{script}"', **HARDENED) == "GCSArtifactRepository\n"


@needs_docker
def test_a_dependency_that_cannot_be_imported_ends_the_build(with_storage: Path) -> None:
    script = with_storage / "docker" / "requirements.py"
    options = '"--no-emit-project"'
    text = script.read_text()
    assert options in text
    script.write_text(text.replace(options, f'{options}, "--prune=google-auth"'))
    command = ("docker", "build", "--progress", "plain", "--target", "compiled-environment", ".")
    refused = run(*command, cwd=with_storage, check=False)
    script.write_text(text)
    assert refused.returncode != 0
    reason = "cannot be imported: No module named 'google.auth'"
    assert f"google-cloud-storage, which pyproject.toml lists, {reason}" in refused.stderr
    assert "Traceback" not in refused.stderr


@needs_docker
@pytest.mark.parametrize("user", [None, "54321"])
def test_images_run_as_any_user_on_a_read_only_root(
    engine: docker.DockerClient, images: dict[str, str], user: str | None
) -> None:
    options = HARDENED | ({"user": user} if user else {})
    for stage in COMMANDS.keys() & images.keys():
        command = COMMANDS[stage]
        shown = sh(engine, images[stage], f"id -u && mmp {command} --help", **options)
        assert shown.startswith(f"{user or 1001}\n")
        assert f"Usage: mmp {command}" in shown


@needs_docker
def test_spark_runs_as_a_user_without_a_name_where_tmp_forbids_programs(
    engine: docker.DockerClient,
    images: dict[str, str],
    project: Path,
    model: Path,
    tmp_path: Path,
) -> None:
    """Docker mounts `--tmpfs` with noexec, and Java's libraries unpack themselves into /tmp."""
    if "spark" not in images:
        pytest.skip("this image is built only for Python 3.11, and with LONG_TESTS=1")
    tmp_path.chmod(0o777)
    given = {"MODEL_URI": "/model", "DATA_PATH": "data/penguins.csv", "OUTPUT_PATH": "/output/rows"}
    volumes = [f"{model}:/model:ro", f"{project}/data:/app/data:ro", f"{tmp_path}:/output"]
    options = HARDENED | {"user": "54321", "environment": given, "volumes": volumes}
    with started(engine, images["spark"], **options) as container:
        status = container.wait(timeout=300)["StatusCode"]
        assert status == 0, container.logs().decode()
        assert "344 rows predicted" in container.logs().decode()
    assert {path.suffix for path in (tmp_path / "rows").glob("part-*")} == {".parquet"}


@needs_docker
def test_a_mistake_ends_the_container_with_one_sentence(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    with started(engine, images["api"], **HARDENED) as container:
        assert container.wait(timeout=60)["StatusCode"] == 2
        assert container.logs().decode().startswith("mmp: no model is given")


@needs_docker
def test_sigterm_ends_training(engine: docker.DockerClient, images: dict[str, str]) -> None:
    waiting = ["train", "--recipe-path", "/dev/stdin"]
    options = HARDENED | {"stdin_open": True}
    with started(engine, images["training"], command=waiting, **options) as container:
        time.sleep(3)  # until it reads its recipe
        container.stop(timeout=20)
        assert container.wait()["StatusCode"] == 143  # 137 would mean killed


@needs_docker
def test_an_image_with_its_model_serves_without_network(
    engine: docker.DockerClient, with_model: str
) -> None:
    with started(engine, with_model, user="54321", **HARDENED) as container:
        wait_for_health(container, "healthy")
        schemas = ask(container, "/openapi.json")["components"]["schemas"]
        example: dict[str, Any] = schemas["PredictionRequest"]["example"]
        assert ask(container, "/predict", example)["prediction"] == "Adelie"
        assert ask(container, "/model")["engine"]["name"] == "onnx"  # because it is compiled
        container.stop(timeout=20)
        assert container.wait()["StatusCode"] == 0  # a clean stop, not killed
        assert "Finished server process" in container.logs().decode()


@needs_docker
def test_health_is_red_without_a_model(engine: docker.DockerClient, with_model: str) -> None:
    quick = {"interval": 10**9, "timeout": 3 * 10**9, "retries": 1, "start_period": 10**6}
    options = HARDENED | {"environment": {"MODEL_URI": "/nowhere"}, "healthcheck": quick}
    with started(engine, with_model, **options) as container:
        wait_for_health(container, "unhealthy")


@needs_docker
def test_the_image_with_a_model_needs_one(project: Path, tmp_path: Path) -> None:
    command = ["docker", "build", "--quiet", "--target", "api-with-model"]
    assert run(*command, ".", cwd=project, check=False).returncode != 0
    empty = ("--build-context", f"model={tmp_path}")
    refused = run(*command, *empty, ".", cwd=project, check=False)
    assert refused.returncode != 0
    assert "has no file MLmodel" in refused.stderr


@needs_docker
def test_images_of_compiled_models_hold_only_what_runs_them(
    engine: docker.DockerClient, images: dict[str, str], compiled_with_model: str
) -> None:
    script = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    native = {"scikit-learn", "scipy", "pandas", "joblib"}
    for image, without in (
        (images["compiled"], native),
        (compiled_with_model, native | {"mlflow-skinny", "cloudpickle"}),
    ):
        installed = set(sh(engine, image, f"python -c '{script}'").lower().split())
        assert {"onnxruntime", "numpy", "fastapi"} < installed
        assert not without & installed
    assert sh(engine, compiled_with_model, "ls /app/model").split() == [
        "MLmodel",
        "compiled",
        "input_example.json",
        "requirements.txt",
    ]
    size = engine.images.get(compiled_with_model).attrs["Size"]
    assert size / 1e6 < BUDGET_MB["compiled-with-model"]


@needs_docker
def test_a_compiled_model_answers_as_the_native_image_does(
    engine: docker.DockerClient,
    images: dict[str, str],
    with_model: str,
    model: Path,
    compiled_with_model: str,
) -> None:
    """It does so with the model inside or mounted, offline, on a read-only root, as any user."""
    mounted = {
        "volumes": [f"{model}:/model:ro"],
        "environment": {"MODEL_URI": "/model"},
    }
    with (
        started(engine, with_model, environment={"ENGINE": "native"}, **HARDENED) as native,
        started(engine, compiled_with_model, user="54321", **HARDENED) as inside,
        started(engine, images["compiled"], user="54321", **HARDENED, **mounted) as outside,
    ):
        for container in (native, inside, outside):
            wait_for_health(container, "healthy")
        schemas = ask(native, "/openapi.json")["components"]["schemas"]
        row: dict[str, Any] = schemas["PredictionRequest"]["example"]
        changes: list[dict[str, Any]] = [
            {},
            {"sex": None},
            {"island": "Nowhere"},
            {"body_mass_g": 6000, "sex": "female"},
        ]
        rows = {"samples": [row | change for change in changes]}
        expected = ask(native, "/predict/batch", rows)["predictions"]
        assert ask(native, "/model")["engine"]["name"] == "sklearn"
        for container in (inside, outside):
            described = ask(container, "/model")["engine"]
            assert described["name"] == "onnx"
            assert described["proof"]["rows_of_data"] > 300
            answers = ask(container, "/predict/batch", rows)["predictions"]
            for answer, wanted in zip(answers, expected, strict=True):
                for name in ("confidence", "probabilities"):
                    assert answer.pop(name) == pytest.approx(wanted[name], abs=1e-5)
                assert answer == {name: wanted[name] for name in answer}


@needs_docker
def test_a_model_that_is_not_compiled_is_refused(
    engine: docker.DockerClient,
    project: Path,
    model: Path,
    images: dict[str, str],
    tmp_path: Path,
) -> None:
    model = shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("compiled"))
    reason = (
        "engine onnx: the model is not compiled; "
        "'mmp compile' (stage compile) converts it or says why not"
    )
    target = ("--target", "compiled-with-model", "--build-context", f"model={model}")
    refused = run("docker", "build", "--progress", "plain", *target, ".", cwd=project, check=False)
    assert refused.returncode != 0
    assert f"mmp: model /model: {reason}" in refused.stderr
    assert "Traceback" not in refused.stderr

    mounted = {"volumes": [f"{model}:/model:ro"], "environment": {"MODEL_URI": "/model"}}
    quick = {"interval": 10**9, "timeout": 3 * 10**9, "retries": 1, "start_period": 10**6}
    options = HARDENED | mounted | {"healthcheck": quick}
    with started(engine, images["compiled"], **options) as container:
        # It is red from its start on, before it has tried to load the model.
        deadline = time.monotonic() + 60
        while reason not in (log := container.logs().decode()):
            assert time.monotonic() < deadline, log
            time.sleep(0.2)
        assert reason in ask(container, "/ready", status=503)["detail"]
        wait_for_health(container, "unhealthy")


@needs_docker
def test_a_change_of_the_sources_installs_nothing(
    project: Path, with_model: str, tmp_path: Path
) -> None:
    """A change of pyproject.toml that does not concern the image installs nothing either."""
    changed = tmp_path / "changed"
    ignore = shutil.ignore_patterns(".venv", "mlruns", "mlflow.db")
    shutil.copytree(project, changed, ignore=ignore)
    with (changed / "src/serving/api/app.py").open("a") as file:
        file.write("\n# changed\n")
    uv("add", "--quiet", "--no-sync", "--group", "dev", "types-requests", cwd=changed)
    command = ("docker", "build", "--label", SESSION, "--progress", "plain", ".")
    output = run(*command, cwd=changed).stderr
    steps = dict(line.split(" ", 1) for line in output.splitlines() if line.startswith("#"))
    installs = [key for key, text in steps.items() if "environment.sh" in text]
    assert "environment.sh" in output
    assert "uv build" in output
    assert not [key for key in installs if steps[key] != "CACHED"]


@pytest.fixture(scope="module")
def wheels(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All wheels that a build of the smallest API needs on Python 3.11."""
    folder = tmp_path_factory.mktemp("index")
    wheels, requirements = folder / "wheels", folder / "requirements.txt"
    groups = ("--no-default-groups", "--group", "compiled", "--group", "tracking")
    options = ("--frozen", "--quiet", "--no-emit-project", "--no-hashes")
    uv("export", *options, *groups, "--output-file", requirements, cwd=project)
    with requirements.open("a") as file:
        # The build tools of the environment and the project's wheel; they are not in the lock.
        uv_version = re.findall(r"UV_VERSION=(.+)", (project / "Dockerfile").read_text())
        file.write(f"uv=={uv_version[0]}\nhatchling>=1.27,<2\n")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    target = ("--python-version", "3.11", "--only-binary", ":all:")
    run(*pip, "download", *target, "--requirement", requirements, "--dest", wheels, cwd=folder)
    return wheels


@needs_docker
def test_it_builds_from_a_directory_of_wheels(project: Path, wheels: Path) -> None:
    """The build has no package index and no network."""
    alone = ("--no-cache", "--network", "none", "--build-context", f"wheels={wheels}")
    assert build(project, *alone, "--target", "compiled", "--build-arg", "PYTHON_VERSION=3.11")


@needs_docker
def test_it_builds_behind_a_private_index(
    engine: docker.DockerClient, project: Path, wheels: Path, tmp_path: Path
) -> None:
    """The index has a login and an unknown certificate authority; the image has no trace of it."""
    token, password = uuid.uuid4().hex, uuid.uuid4().hex
    # Its own name and its own download cache, so that nothing is cached from before.
    host = f"index-{token}.internal"
    authority = make_certificates(engine, host, tmp_path)
    for word in ("wrong", password):
        login = f"machine {host} login builder password {word}\n"
        (tmp_path / f"netrc-{word}").write_text(login)
    ca = ("--secret", f"id=ca,src={authority}")
    wrong, right = (("--secret", f"id=netrc,src={tmp_path}/netrc-{w}") for w in ("wrong", password))
    try:
        with private_index(engine, wheels, tmp_path, f"builder:{password}") as index:
            options = [
                *("--add-host", f"{host}:{address(index)}"),
                *("--build-arg", f"INDEX_URL=https://{host}/simple"),
                *("--build-arg", f"BUILDKIT_CACHE_MOUNT_NS={token}"),
                *("--build-arg", "PYTHON_VERSION=3.11"),
            ]
            refused = ("docker", "build", "--target", "builder", *options)
            assert run(*refused, *right, ".", cwd=project, check=False).returncode != 0
            assert requests(index) == set()
            assert run(*refused, *ca, *wrong, ".", cwd=project, check=False).returncode != 0
            assert requests(index) == {("GET", "401", "/simple/uv/")}
            image = build(project, "--target", "compiled", *options, *ca, *right)
            fetched = {path for _, status, path in requests(index) if status == "200"}
    finally:
        for record in engine.df()["BuildCache"]:
            if token in record["Description"]:
                command = ("docker", "builder", "prune", "--force", "--filter")
                run(*command, f"id={record['ID']}", cwd=ROOT)
    for package in ("uv", "hatchling", "onnxruntime"):
        assert any(path.startswith(f"/wheels/{package}-") for path in fetched)
    secrets = {
        "password": password.encode(),
        "login": base64.b64encode(f"builder:{password}".encode()),
        "authority": authority.read_bytes().splitlines()[2],
        "address": host.encode(),
        "no secret": b"from serving.cli import main",  # proves that the search finds text
    }
    found = {
        (secret, name)
        for name, content in layer_files(engine, image)
        for secret, text in secrets.items()
        if text in content
    }
    assert ("no secret", "app/.venv/bin/mmp") in found
    assert {secret for secret, _ in found} == {"no secret"}


@contextlib.contextmanager
def private_index(
    engine: docker.DockerClient, wheels: Path, tls: Path, login: str
) -> Iterator[Container]:
    """A package index in a container, with a certificate from make_certificates()."""
    mounts = {wheels: "/wheels", tls: "/tls", ROOT / "tests/private_index.py": "/index.py"}
    volumes = [f"{source}:{target}:ro" for source, target in mounts.items()]
    command = ["python", "/index.py", "/wheels", "/tls/server.pem", "/tls/server.key", login]
    with started(engine, BASE, command=command, volumes=volumes) as container:
        deadline = time.monotonic() + 60
        while b"listening" not in container.logs() and time.monotonic() < deadline:
            time.sleep(0.1)
        yield container


def address(container: Container) -> str:
    """The address of a container for build containers, which run on the same bridge."""
    container.reload()
    found: str = container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    return found


def requests(index: Container) -> set[tuple[str, ...]]:
    """Method, status and path of the requests that the index received."""
    return set(re.findall(r"^([A-Z]+) (\d+) (.+)$", index.logs().decode(), re.MULTILINE))


def make_certificates(engine: docker.DockerClient, host: str, directory: Path) -> Path:
    """Make a certificate for a host and return the certificate of its authority.

    Uses openssl in the base image, so that this machine does not need it.
    """
    (directory / "openssl.cnf").write_text(
        "[req]\ndistinguished_name = name\n[name]\n"
        "[ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n"
        "subjectKeyIdentifier = hash\n"
        f"[server]\nsubjectAltName = DNS:{host}\nextendedKeyUsage = serverAuth\n"
        "authorityKeyIdentifier = keyid\n"
    )
    new = "openssl req -x509 -config openssl.cnf -newkey rsa:2048 -nodes -days 2"
    script = (
        f"{new} -subj '/CN=Authority' -extensions ca -keyout ca.key -out ca.pem 2>&1 && "
        f"{new} -subj /CN=index -extensions server -CA ca.pem -CAkey ca.key "
        "-keyout server.key -out server.pem 2>&1"
    )
    user = f"{os.getuid()}:{os.getgid()}"
    volumes = [f"{directory}:/tls"]
    sh(engine, BASE, script, volumes=volumes, working_dir="/tls", user=user)
    return directory / "ca.pem"
