"""Schemathesis hooks: check the promises of the OpenAPI document that a schema can express."""

from typing import Any

import schemathesis

REFUSED = "the model cannot predict from these values"


@schemathesis.check
def valid_data_is_answered(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Valid data get an answer, unless the model itself cannot compute with them.

    Replaces Schemathesis' own check `positive_data_acceptance`, which has no such exception: for
    example a year beyond nanoseconds, or numbers whose sum is infinite.
    """
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if is_valid and response.status_code == 422:
        assert REFUSED in response.text, f"valid data were refused: {response.text}"
