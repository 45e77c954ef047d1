"""Your own code: `copier update` never touches this package.

The framework in `src/serving/` imports these modules if they exist; all are optional.
docs/customization.md has a worked example of each.

api.py           routes, middleware, dependencies, error handlers: `extend(app)`
prediction.py    code before and after the model, additional fields of requests and answers
settings.py      your own settings, in the section `custom` of configs/
engines.py       engines for models that the framework cannot call
commands/        commands of `mmp`, one module each
estimators.py    estimators and transformers that recipes name; the module may have any name
"""
