"""Spark is not in the environment of the other tests."""

import pytest
from serving.errors import ServingError
from serving.inference.spark.session import spark_session


def test_a_missing_spark_is_said_with_the_command_that_installs_it() -> None:
    with pytest.raises(ServingError, match="uv sync --group spark"), spark_session("local"):
        pass
