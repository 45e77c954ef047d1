"""Shared by several test modules: the template as a repository, and command-line tools."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
QUESTIONS = {name: spec for name, spec in CONFIG.items() if not name.startswith("_")}
LONG = bool(os.environ.get("LONG_TESTS"))  # make test-all
PYTHON_VERSIONS: list[str] = QUESTIONS["python_version"]["choices"]

ALL_STAGES = ("api", "training", "inference", "compile")
# Every non-empty set of stages that contains "api".
STAGE_SETS = tuple(
    ("api", *others)
    for count in range(len(ALL_STAGES))
    for others in itertools.combinations(ALL_STAGES[1:], count)
)

# Names that must survive every file format, and the resulting names of the package.
AWKWARD_NAMES = {
    "two words": "two-words",
    "it's \"quoted\" & 'all'": "it-s-quoted-all",
    "Müller & Söhne": "m-ller-s-hne",
    "펭귄 분류기": "model-serving",
    "🐧": "model-serving",
    "C# - the #1 model": "c-the-1-model",
    "{{ 7 * 7 }} {% raw %} {# no": "7-7-raw-no",
    "3 little penguins": "3-little-penguins",
    "class": "class",
    "json": "json",
    "null": "null",
    "2026-01-01": "2026-01-01",
    "1e3": "1e3",
    "$(touch oops); `id`": "touch-oops-id",
    "<script> & [link](x) *a* _b_ | c": "script-link-x-a-b-c",
    "- a: b, [c]": "a-b-c",
    "x" * 60: "x" * 40,
}

# Run with an environment's Python: prints the files that are missing or differ from RECORD.
WRONG_RECORDS = """
import base64, hashlib, importlib.metadata

for distribution in importlib.metadata.distributions():
    for file in distribution.files or ():
        path = file.locate()
        content = path.read_bytes() if path.is_file() else None
        digest = base64.urlsafe_b64encode(hashlib.sha256(content or b"").digest()).rstrip(b"=")
        said = (file.hash.value, file.size) if file.hash else None
        if content is None or said not in (None, (digest.decode(), len(content))):
            print(file)
"""


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command; an unexpected failure shows its output."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert result.returncode == 0 or not check, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def copier(
    *arguments: str | Path, cwd: Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the real `copier` command, without --trust."""
    return run(sys.executable, "-m", "copier", *arguments, cwd=cwd, check=check)


def uv(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run uv."""
    return run(find_uv_bin(), *arguments, cwd=cwd, env=env, check=check)


def git(*arguments: str | Path, cwd: Path) -> str:
    """Run git and return what it printed."""
    return run("git", *arguments, cwd=cwd).stdout


def commit_all(repository: Path, tag: str | None = None) -> None:
    """Commit everything in `repository`, after `git init` if necessary; tag the commit."""
    if not (repository / ".git").exists():
        git("init", "--quiet", "--initial-branch=main", cwd=repository)
    git("add", "--all", cwd=repository)
    git("commit", "--quiet", "--allow-empty", "--message", tag or "Change", cwd=repository)
    if tag:
        git("tag", tag, cwd=repository)


def copy_template(destination: Path) -> Path:
    """Copy the working tree, including uncommitted files, into a new repository."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, destination / name
        if source.is_file():  # deleted files are still listed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    commit_all(destination)
    return destination


def files(project: Path) -> Iterator[Path]:
    """Yield the files of a rendered project, as sorted paths relative to it."""
    for path in sorted(project.rglob("*")):
        relative = path.relative_to(project)
        if path.is_file() and relative.parts[0] != ".git":
            yield relative


def contents(project: Path) -> dict[str, bytes]:
    """Return the files of a rendered project, without Copier's answers file."""
    return {
        path.as_posix(): (project / path).read_bytes()
        for path in files(project)
        if path.name != ".copier-answers.yml"
    }


def data_options(**answers: Any) -> list[str]:
    """Return answers as options of the `copier` command."""
    assert_questions(answers)
    options = []
    for name, value in answers.items():
        text = f"[{', '.join(value)}]" if isinstance(value, list | tuple) else str(value)
        options += ["--data", f"{name}={text}"]
    return options


def assert_questions(answers: Mapping[str, Any]) -> None:
    """Fail for a key that is not a question: Copier would ignore it and the test be useless."""
    unknown = answers.keys() - QUESTIONS.keys()
    assert not unknown, f"no such question in copier.yml: {sorted(unknown)}"
