"""One module for each command of `mmp`: `serve_api.py` is `mmp serve-api`.

A module is a command by being here; its function `run` has the options and a docstring for the
help text. Names that begin with an underscore are no commands.
"""
