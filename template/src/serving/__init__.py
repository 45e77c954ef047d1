"""A machine-learning model behind a typed HTTP API.

This package belongs to the template: do not edit it, because `copier update` replaces it. Your own
code goes into the package `custom` beside it.
"""
