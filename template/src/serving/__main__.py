"""`python -m serving`: the `mmp` command, also where another package has a script of that name."""

from serving.cli import main

main()
