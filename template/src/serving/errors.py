"""Exceptions; each message is one sentence that says what is wrong and where."""


class ServingError(Exception):
    """Base of all errors whose message is shown to the user unchanged.

    The command line prints it to stderr and exits with the status; the server logs it as the
    reason why it is not ready.
    """

    status = 2


class ConfigError(ServingError):
    """A configuration file or an environment variable is wrong."""


class RecipeError(ServingError):
    """A recipe is wrong."""


class DataError(ServingError):
    """A data file cannot be read, or its columns or values are not as required."""


class TemporaryFailure(DataError):
    """Something else than the data failed, and trying again may help."""


class NoSpaceError(TemporaryFailure):
    """The disk is full."""


class StoreFailed(TemporaryFailure):
    """An object store cannot be reached, or has refused a request."""


class WorkerLost(TemporaryFailure):
    """A worker process has ended."""

    status = 1


class InterruptedRun(ServingError):
    """A run was stopped before its end, and can be resumed."""

    status = 75
    """`EX_TEMPFAIL` of sysexits.h: trying again makes sense."""


class TrainingError(ServingError):
    """The estimator could not be created or fitted, or the logged model cannot be loaded again."""


class TrainingStopped(ServingError):
    """Ctrl-C has ended training."""

    status = 130
    """128 and SIGINT, as shells have it."""


class GateError(ServingError):
    """A model was trained and logged, but it does not reach the gate of its recipe."""

    status = 4


class CompilationError(ServingError):
    """A model cannot be compiled, or its compiled form gives different answers."""


class ModelLoadError(ServingError):
    """A model could not be found or loaded."""


class ModelNotFound(ModelLoadError):
    """The store has no such run or model, so retrying would not help."""


class ContractError(ServingError):
    """The recipe and the model's signature have different columns."""


class ExtensionError(ServingError):
    """The user's own code in the package `custom` cannot be used."""


class RowError(Exception):
    """The model cannot predict one row of a table, although every value has the right type."""

    def __init__(self, index: int) -> None:
        super().__init__(f"row {index + 1}: the model cannot predict from these values")
        self.index = index


class Refused(Exception):
    """A hook refuses a request.

    Args:
        detail: one sentence for the caller.
        status: the HTTP status of the response.
    """

    def __init__(self, detail: str, status: int = 422) -> None:
        super().__init__(detail)
        self.status = status


class ModelFailed(Exception):
    """The model raised an exception that is not the caller's fault; the log has the details."""


class Unavailable(Exception):
    """The server cannot answer now; the message is for the caller."""

    retry_after = 5
    """Seconds after which a retry makes sense."""


class NotReady(Unavailable):
    """There is no model, or it does not answer."""


class Draining(Unavailable):
    """The server is stopping."""


class Overloaded(Unavailable):
    """Too much is in progress already."""

    retry_after = 1
