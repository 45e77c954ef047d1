"""Print the locked requirements of a dependency group. Used while the image is built.

    python requirements.py [--lean] OPTIONS OF uv export

The first line names those that pyproject.toml names itself. With `--lean` without what an API
never asks for (40 MB), unless another package needs it, or pyproject.toml names it.
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


Tree = dict[str, set[str]]
"""Which packages need a package, by its name; the project is one of them."""


def read_tree(groups: list[str]) -> tuple[str, Tree]:
    """Ask uv for the name of the project, and for what needs what."""
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
    """Print them for the arguments of the command line."""
    options = sys.argv[1:]
    is_lean = options[0] == "--lean"
    groups = options[1:] if is_lean else options
    project, needed_by = read_tree(groups)
    needless = [
        name for name, parent in NEEDLESS.items() if is_lean and needed_by.get(name) == {parent}
    ]
    named = sorted(name for name, parents in needed_by.items() if project in parents)
    print("# named in pyproject.toml:", *named, flush=True)
    # Versions and hashes alone: any index that has them will do, and nothing else that changes in
    # the project changes the list.
    command = ["uv", "export", *LOCKED, "--no-emit-project", "--no-header", "--no-annotate"]
    command += groups + [f"--prune={name}" for name in needless]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
