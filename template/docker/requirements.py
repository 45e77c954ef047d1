"""Print the locked requirements of a dependency group. Used while the image is built.

    python requirements.py [--lean] OPTIONS OF uv export

With `--lean` without what an API never asks for (40 MB), unless another package needs it, or
pyproject.toml names it.
"""

import json
import subprocess
import sys

# What an API never asks for, and whose dependency it is. databricks-sdk, with google-auth and
# cryptography, is for a store on Databricks, gitpython notes the commit of a run, prettytable, with
# wcwidth, is for model cards, and rich, with Pygments, colours help texts.
NEEDLESS = {
    "databricks-sdk": "mlflow-skinny",
    "gitpython": "mlflow-skinny",
    "prettytable": "skops",
    "rich": "typer",
}
LOCKED = ("--frozen", "--quiet", "--no-default-groups")


def needless(groups: list[str]) -> list[str]:
    """Find those that are there for that one package alone."""
    command = ["uv", "tree", *LOCKED, *groups, "--format", "json"]
    command += ["--preview-features", "json-output"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    nodes = json.loads(output)["resolution"]  # the project is one of them
    needed_by: dict[str, set[str]] = {}
    for node in nodes.values():
        for dependency in node["dependencies"]:
            needed_by.setdefault(nodes[dependency["id"]]["name"], set()).add(node["name"])
    return [name for name, parent in NEEDLESS.items() if needed_by.get(name) == {parent}]


def main() -> None:
    options = sys.argv[1:]
    prune: list[str] = []
    if options[0] == "--lean":
        options = options[1:]
        prune = [f"--prune={name}" for name in needless(options)]
    # Versions and hashes without addresses, so that any index that has them will do.
    command = ["uv", "export", *LOCKED, "--no-emit-project", *options, *prune]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
