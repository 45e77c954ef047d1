"""The command line: fast help, and one sentence for a mistake."""

import os
import socket
import subprocess
import sys

import pytest
from conftest import PROJECT


def mmp(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from serving.cli import main; main()", *arguments]
    return subprocess.run(
        command,
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_imports_no_machine_learning() -> None:
    code = (
        "import sys; from serving.cli import app; app(['--help'], standalone_mode=False);"
        "print(sorted({'mlflow', 'pandas', 'sklearn', 'fastapi'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "serve-api" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {}, "no model is given"),
        (["--run-id", "a", "--model-uri", "b"], {}, "give one"),
        (["--run-id", "a", "--config-path", "nowhere.yaml"], {}, "nowhere.yaml: no such file"),
        (["--run-id", "a", "--port", "0"], {}, "--port"),
        (["--run-id", "a"], {"PORT": "http"}, "environment variable PORT"),
        (["--run-id", "a", "--host", "192.0.2.1"], {}, "cannot listen on 192.0.2.1"),
        ([], {"MODEL_RUN_ID": "a", "MODEL_URI": "b"}, "keep one"),
    ],
)
def test_a_mistake_ends_with_a_sentence_and_status_2(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    answer = mmp("serve-api", *arguments, **environment)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        answer = mmp("serve-api", "--run-id", "a", "--host", "127.0.0.1", "--port", port)
    assert answer.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}: " in answer.stderr


def test_an_option_wins_over_the_environment() -> None:
    options = ["--run-id", "a", "--host", "192.0.2.1"]
    answer = mmp("serve-api", *options, HOST="127.0.0.1", MODEL_URI="b")
    assert "cannot listen on 192.0.2.1" in answer.stderr
