"""Errors that the user can mend: each says in one sentence what is wrong and where."""


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


class ContractError(ServingError):
    """Recipe and model signature do not agree on the columns."""


class RowError(Exception):
    """The model cannot predict one row of a table, although every value has the right type."""

    def __init__(self, index: int) -> None:
        super().__init__(f"row {index + 1}: the model cannot predict from these values")
        self.index = index
