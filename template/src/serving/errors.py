"""What goes wrong, each with one sentence that says what and where."""


class ServingError(Exception):
    """Base of all errors whose message is meant for the user as it stands.

    The command line prints it on stderr and exits with status 2; the server gives it as the
    reason why it is not ready.
    """


class ConfigError(ServingError):
    """A configuration file or an environment variable is wrong."""


class RecipeError(ServingError):
    """A recipe is wrong."""


class DataError(ServingError):
    """A data file cannot be read, or its columns or values are not what was asked for."""


class TrainingError(ServingError):
    """The estimator could not be made or fitted, or what was logged does not load again."""


class CompilationError(ServingError):
    """A model cannot be compiled, or its compiled form does not answer as it does."""


class ModelLoadError(ServingError):
    """A model could not be found or loaded."""


class ModelNotFound(ModelLoadError):
    """The store answers that it has no such run or model: to try again would not help."""


class ContractError(ServingError):
    """Recipe and model signature do not agree on the columns."""


class ExtensionError(ServingError):
    """The user's own code in the package `custom` cannot be used."""


class RowError(Exception):
    """The model cannot predict one row of a table, although every value has the right type."""

    def __init__(self, index: int) -> None:
        super().__init__(f"row {index + 1}: the model cannot predict from these values")
        self.index = index


class Refused(Exception):
    """A hook does not answer a request.

    Args:
        detail: one sentence for the caller.
        status: the HTTP status of the answer.
    """

    def __init__(self, detail: str, status: int = 422) -> None:
        super().__init__(detail)
        self.status = status


class ModelFailed(Exception):
    """The model raised something that is nobody's fault but its own; the log says what."""


class Unavailable(Exception):
    """The server cannot answer now; the message is for the caller."""

    retry_after = 5
    """Seconds after which it is worth to ask again."""


class NotReady(Unavailable):
    """There is no model, or it does not answer."""


class Draining(Unavailable):
    """The server is stopping."""


class Overloaded(Unavailable):
    """Too much is in progress already."""

    retry_after = 1
