"""Hooks of Schemathesis: what the OpenAPI document promises, but for what no schema can say."""

from typing import Any

import schemathesis

REFUSED = "the model cannot predict from these values"


@schemathesis.check
def valid_data_is_answered(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Data that fit the schema are answered, unless the model itself cannot compute with them.

    As Schemathesis' own check `positive_data_acceptance`, which knows no such models: a year
    beyond nanoseconds, numbers whose sum is infinite.
    """
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if is_valid and response.status_code == 422:
        assert REFUSED in response.text, f"valid data were refused: {response.text}"
