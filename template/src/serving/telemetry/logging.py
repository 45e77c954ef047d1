"""Logging to stderr."""

import logging
import traceback
from contextvars import ContextVar

from serving.config.settings import LoggingSettings
from serving.redaction import redact

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current request, for its log records and its error document."""


def configure_logging(settings: LoggingSettings) -> None:
    """Log to stderr with the given level and format; a second call does nothing."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.addFilter(_add_request_id)
    handler.setFormatter(_json_formatter() if settings.format == "json" else _TextFormatter())
    root.addHandler(handler)
    root.setLevel(settings.level)
    # Silence successful migrations, and retries whose outcome is reported anyway.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def log_failure(logger: logging.Logger, level: int, what: str, exc: BaseException) -> None:
    """Log an exception with its stack; its message, which may quote data, only at level DEBUG."""
    stack = "".join(traceback.format_tb(exc.__traceback__)).rstrip()
    logger.log(level, "%s: %s\n%s", what, type(exc).__name__, stack)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s: %s", what, redact(str(exc)))


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    record.__dict__.pop("color_message", None)  # uvicorn's copy of the message with colours
    return True


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        identity = getattr(record, "request_id", None)
        return f"{text} [{identity}]" if identity else text


def _json_formatter() -> logging.Formatter:
    """One JSON object per line: timestamp, level, logger, message, request_id and extra fields."""
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        ["levelname", "name", "message", "request_id"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp=True,
    )
