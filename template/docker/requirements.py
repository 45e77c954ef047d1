"""Print the locked requirements of a dependency group. Used during the image build.

    python requirements.py [--lean] OPTIONS OF uv export

The first line lists the direct dependencies of pyproject.toml. `--lean` leaves out packages that an
API never uses (40 MB), unless another package or pyproject.toml itself needs them.
"""

import json
import subprocess
import sys

# Packages that an API never uses, and the package that depends on each. databricks-sdk (with
# google-auth and cryptography) is for a store on Databricks, gitpython records the commit of a run,
# prettytable (with wcwidth) is for model cards, and rich (with Pygments) colours help texts.
NEEDLESS = {
    "databricks-sdk": "mlflow-skinny",
    "gitpython": "mlflow-skinny",
    "prettytable": "skops",
    "rich": "typer",
}
LOCKED = ("--frozen", "--quiet", "--no-default-groups")


Tree = dict[str, set[str]]
"""Package -> the packages that depend on it, including the project."""


def read_tree(groups: list[str]) -> tuple[str, Tree]:
    """Get the name of the project and the dependency tree from uv."""
    command = ["uv", "tree", *LOCKED, *groups, "--format", "json"]
    command += ["--preview-features", "json-output"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    tree = json.loads(output)
    nodes = tree["resolution"]
    needed_by: Tree = {}
    for node in nodes.values():
        for dependency in node["dependencies"]:
            needed_by.setdefault(nodes[dependency["id"]]["name"], set()).add(node["name"])
    return nodes[tree["roots"][0]["id"]]["name"], needed_by


def main() -> None:
    """Print the requirements."""
    options = sys.argv[1:]
    is_lean = options[0] == "--lean"
    groups = options[1:] if is_lean else options
    project, needed_by = read_tree(groups)
    needless = [
        name for name, parent in NEEDLESS.items() if is_lean and needed_by.get(name) == {parent}
    ]
    named = sorted(name for name, parents in needed_by.items() if project in parents)
    print("# named in pyproject.toml:", *named, flush=True)
    # Only versions and hashes, so that any index will do and other changes of the project do not
    # change the list.
    command = ["uv", "export", *LOCKED, "--no-emit-project", "--no-header", "--no-annotate"]
    command += groups + [f"--prune={name}" for name in needless]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
