"""`python -m serving`: the `mmp` command, even if another package has a script of that name."""

from serving.cli import main

main()
