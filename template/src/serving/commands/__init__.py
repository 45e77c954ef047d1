"""One module for each command of `mmp`: `serve_api.py` is `mmp serve-api`.

Every module here is a command, unless its name starts with an underscore. The parameters of its
function `run` are the options, and the docstring of `run` is the help text.
"""
