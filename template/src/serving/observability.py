"""What the project says of itself while it runs."""

import logging

from serving.settings import LoggingSettings


def configure_logging(settings: LoggingSettings) -> None:
    """Log to stderr from the given level on; a second call changes nothing."""
    logging.basicConfig(
        level=settings.level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Migrations that worked, and retries whose end is reported anyway.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
