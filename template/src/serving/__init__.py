"""A machine-learning model behind a typed HTTP API.

This package is the template's: never edit it, `copier update` renews it. Your own code goes into
the package `custom` beside it.
"""
