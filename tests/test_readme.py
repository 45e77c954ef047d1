"""Run every command of the READMEs and of a project's docs/ as printed, except placeholders."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
import yaml
from conftest import Render
from helpers import ALL_STAGES, ROOT, run, uv
from images import connect, remove_images, wait_for_health
from serving import free_port, logged_model, serve, wait_until
from uv import find_uv_bin

pytestmark = pytest.mark.slow

ORDERS = "order_id,tier,quantity,spent\n" + "".join(
    f"{n},{'gold' if n % 3 else 'silver'},{n % 7 or ''},{n % 7 * 2 + n % 3}\n" for n in range(60)
)


# The modules of customization.md belong together and are tested in test_customization.py.
TESTED_ELSEWHERE = {"docs/customization.md"}


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and content of each code block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def pages(project: Path) -> list[Path]:
    """The README, then the pages of docs/ in the order of its links."""
    readme = project / "README.md"
    linked = re.findall(r"^\| \[(docs/\w+\.md)\]", readme.read_text(), re.MULTILINE)
    return [readme, *(project / page for page in linked if page not in TESTED_ELSEWHERE)]


@pytest.fixture(scope="module")
def model(project: Path, penguins: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was logged elsewhere."""
    logged = logged_model(project, penguins)
    return Path(shutil.copytree(logged, tmp_path_factory.mktemp("logged") / "model"))


SMALLEST = """
name: part
task_choice: classification
data: {data_interface: {target_column: label}}
model: {class_path: sklearn.linear_model.LogisticRegression}
"""


class Reader:
    """Types the commands in the pages of a rendered project, from top to bottom."""

    def __init__(self, project: Path, port: int) -> None:
        self.project = project
        self.caller = project.parent / f"{project.name}-caller"
        self.directory = project
        self.placeholders = {"recipes/RECIPE.yaml": "recipes/orders.yaml"}
        self.environment = {
            **os.environ,
            "PATH": f"{Path(find_uv_bin()).parent}{os.pathsep}{os.environ['PATH']}",
            "UV_PROJECT_ENVIRONMENT": ".venv",
        }
        self.port = port
        self.answers: list[str] = []
        self.servers: list[subprocess.Popen[bytes]] = []

    def read(self, *, with_docker: bool = False) -> None:
        """Run each code block for Docker, or all others."""
        try:
            for page in pages(self.project):
                for section in re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE):
                    calls = section.startswith("## Call it")
                    self.directory = self.caller if calls else self.project
                    for language, content in blocks(section):
                        self.do(language, content, with_docker=with_docker)
        finally:
            for server in self.servers:
                server.terminate()
                server.wait(timeout=30)

    def do(self, language: str, content: str, *, with_docker: bool) -> None:
        """Type the commands of a block, or save its file."""
        if language == "sh" and ("docker " in content) == with_docker:
            # A command continues in the next line if a quote is open.
            for command in re.findall(r"(?:'[^']*'|[^'\n])+", content):
                self.type(command)
        if language == "yaml" and content.startswith("name:"):
            (self.project / "recipes/orders.yaml").write_text(content)
        elif language == "yaml" and not with_docker:
            self.check_part(content)
        if language == "python" and not with_docker:
            [name] = re.findall(r"\A# (\S+)\n", content)
            (self.directory / name).write_text(content)
        if language == "json" and content.startswith('{"prediction"') and not with_docker:
            assert json.loads(content).keys() == json.loads(self.answers[-1]).keys()

    def check_part(self, content: str) -> None:
        """Check a part of a recipe by adding it to the smallest one."""
        recipe = yaml.safe_load(SMALLEST)
        for section, keys in yaml.safe_load(content).items():
            is_mapping = isinstance(recipe.get(section), dict)
            recipe[section] = recipe[section] | keys if is_mapping else keys
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "part.yaml"
            path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
            code = "import sys, pathlib, serving.contract.recipe as r"
            code += "; r.load_recipe(pathlib.Path(sys.argv[1]))"
            checked = subprocess.run(
                [self.project / ".venv/bin/python", "-c", code, path],
                capture_output=True,
                encoding="utf-8",
            )
        assert checked.returncode == 0, f"{content}\n{checked.stderr}"

    def type(self, command: str) -> None:
        """Run one command; a server stays in the background once it is ready."""
        for placeholder, value in self.placeholders.items():
            command = re.sub(rf"(?<!\w){re.escape(placeholder)}(?!\w)", value, command)
        if " serve-api " in command:
            self.serve(command)
            return
        if variable := re.match(r"export (\w+)=(.*)", command):
            self.environment[variable[1]] = variable[2]
            return
        answer = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
        )
        assert answer.returncode == 0, f"{command}\n{answer.stdout}\n{answer.stderr}"
        self.answers.append(answer.stdout)
        if found := re.search(r"^run_id: (\w+)$", answer.stdout, re.MULTILINE):
            self.placeholders.setdefault("RUN_ID", found[1])

    def serve(self, command: str) -> None:
        """Start the server and wait for it."""
        log = self.project / "server.log"
        with log.open("w") as output:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.project,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.servers.append(server)
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as http:
            wait_until(http, 200, server, log)
            request = http.get("/openapi.json").json()["components"]["schemas"]["PredictionRequest"]
        self.caller.mkdir(exist_ok=True)
        (self.caller / "sample.json").write_text(json.dumps(request["example"]))


READMES = [
    pytest.param(ALL_STAGES, True, id="all"),
    pytest.param(("api", "training"), False, id="api-training-no-example"),
    pytest.param(("api", "inference"), True, id="api-inference"),
]


@pytest.mark.parametrize(("stages", "include_example"), READMES)
def test_commands_of_the_rendered_pages(
    render: Render, model: Path, stages: tuple[str, ...], include_example: bool
) -> None:
    assert shutil.which("curl"), "the README's curl command cannot be run: install curl"
    port = free_port()
    project = render(
        project_name="Read me", stages=stages, include_example=include_example, api_port=port
    )
    reader = Reader(project, port)
    (project / "data").mkdir(exist_ok=True)
    (project / "data/orders.csv").write_text(ORDERS)
    if "training" in stages and not include_example:
        readme = (project / "README.md").read_text()
        [recipe] = [text for language, text in blocks(readme) if language == "yaml"]
        (project / "recipes/orders.yaml").write_text(recipe)
    reader.placeholders["MODEL_URI"] = str(model)
    if "training" not in stages:
        reader.placeholders |= {"--run-id RUN_ID": f"--model-uri {model}"}
        source = model.parents[0] / "penguins.csv"
        shutil.copy(ROOT / "template/data/penguins.csv", source)
        reader.placeholders["INPUT.csv"] = str(source)
    reader.read()
    if include_example and "training" in stages:
        assert sum('"prediction":"Adelie"' in answer for answer in reader.answers) == 2  # curl
        assert reader.answers.count("Adelie\n") == 2  # httpx, and the generated client
    with serve(project, "--model-uri", model) as http:
        assert "contact" in http.get("/about").json()  # the route of the guide


@pytest.mark.docker
def test_docker_commands_of_the_rendered_pages(render: Render, model: Path) -> None:
    """Compose from a fresh project to a prediction, then the images, with commands as printed."""
    connect()
    port = free_port()
    project = render(project_name="Read Docker", api_port=port, mlflow_port=free_port())
    reader = Reader(project, port)
    reader.placeholders["MODEL_DIRECTORY"] = str(model)
    readme = (project / "README.md").read_text()
    curl = next(text for _, text in blocks(readme) if text.startswith("curl"))
    compose = ["docker", "compose"]

    def asked(command: str) -> None:
        type_command(command)
        if "--wait api" in command:
            type_command(curl)
            assert '"prediction":"Adelie"' in reader.answers[-1]
            engine = httpx.get(f"http://127.0.0.1:{port}/model", trust_env=False).json()["engine"]
            assert engine["name"] == "onnx"  # training has compiled it
        if "batch-inference" in command:
            assert (project / "output/predictions.parquet").stat().st_size > 0

    type_command, reader.type = reader.type, asked  # type: ignore[method-assign]  # to check each answer
    try:
        reader.read(with_docker=True)
        wait_for_health(connect().containers.get("read-docker"), "healthy")
        type_command(curl)
        assert '"prediction":"Adelie"' in reader.answers[-1]
    finally:
        run("docker", "rm", "--force", "read-docker", cwd=project, check=False)
        run(*compose, "--profile", "*", "down", "--volumes", cwd=project, check=False)
        remove_images(connect(), "org.opencontainers.image.title=read-docker")


def test_every_variable_of_compose_is_in_the_example_of_env(render: Render) -> None:
    project = render(project_name="Read Docker")
    used = set(re.findall(r"\$\{([A-Z_]+)", (project / "compose.yaml").read_text()))
    example = (project / ".env.example").read_text()
    assert used == set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE))


def test_every_setting_of_the_page_is_one_of_the_code(project: Path) -> None:
    """The table names exactly the settings that `mmp COMMAND --help` names."""
    helps = "".join(
        uv("run", "mmp", command, "--help", cwd=project).stdout
        for command in ("train", "serve-api", "batch-inference")
    )
    table = re.findall(
        r"^\| `([A-Z_]+)` \|([^|]*)\|", (project / "docs/settings.md").read_text(), re.M
    )
    for variable, options in table:
        for option in re.findall(r"`(-[^`]+)`", options):
            assert option in helps
            assert variable in helps
    assert set(re.findall(r"(?<= )--[a-z-]+", helps)) - {"--help"} == {
        option for _, options in table for option in re.findall(r"`(--[^`]+)`", options)
    }


def test_commands_of_the_templates_readme(template: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    [quick, curl, with_data, checkout] = [
        text for language, text in blocks(readme) if language == "sh"
    ]
    assert checkout.split("\n") == ["make demo", "make test", ""]  # the demo is run below

    def ours(command: str) -> str:
        copier = f"{sys.executable} -m copier"
        command = command.replace("uvx copier", copier).replace("copier copy", "copier copy -f", 1)
        return command.replace("gh:org/mmp-serving-template", str(template))

    for number, block in enumerate((quick, with_data)):
        home = tmp_path / str(number)
        home.mkdir()
        *setup, last = block.strip().splitlines()
        if "serve-api" not in last:
            setup.append(last)
        uv_directory = Path(find_uv_bin()).parent
        script = "\n".join(["set -e", f'PATH="{uv_directory}:$PATH"', *map(ours, setup)])
        output = run("bash", "-c", script, cwd=home).stdout
        if "serve-api" in last:
            assert "run_id: " in output
            _, options = last.split(" serve-api ")
            with serve(home / "myproj", *options.split()) as http:
                asked = curl.replace("http://127.0.0.1:8000", str(http.base_url).rstrip("/"))
                assert '"prediction":"Adelie"' in run("bash", "-c", asked, cwd=home).stdout
        assert (home / "myproj/README.md").exists()


def test_demo_on_a_terminal(template: Path) -> None:
    """`make demo`, except that it uses the environment of these tests."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "scripts/demo.py"]
    demo = subprocess.Popen(command, cwd=template, stdin=theirs, stdout=theirs, process_group=0)
    os.close(theirs)
    output = ""
    try:
        while "Press Ctrl-C" not in output:
            output += os.read(ours, 4096).decode()
        [page] = re.findall(r"still running: (\S+)", output)
        assert httpx.get(page, trust_env=False).status_code == 200
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        assert demo.wait(timeout=60) == 0
    finally:
        os.close(ours)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(demo.pid, signal.SIGKILL)
    [single, batch] = re.findall(r"-> 200\s+(\{.*?^\})", output, re.DOTALL | re.MULTILINE)
    assert '"prediction": "Adelie"' in single
    answers = [answer["prediction"] for answer in json.loads(batch)["predictions"]]
    assert answers == ["Adelie", "Gentoo", "Chinstrap"]
