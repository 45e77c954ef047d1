"""Measure where the time of one request goes; run with a rendered project's Python.

python profile_request.py BODIES   prints the median microseconds of each part as JSON

`MODEL_URI`, `ENGINE` and `CONFIG_PATH` name the model, as for `mmp serve-api`. Every part is the
project's own object, called as in its route. The whole is the ASGI application, without a server
and without sockets.
"""

import asyncio
import gc
import json
import logging
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import uvloop
from serving.api.app import create_app
from serving.api.body import parse_json

REST = "middleware, route, limits, metrics"
ACCESS_LOG = "serving.access"
LAP = "#####"  # see load.py
SECONDS = 1.0
MOST = 4000


def main(bodies: list[bytes]) -> None:
    """Measure the parts, then the whole, and print them."""
    uvloop.run(_profile(bodies))


async def _profile(bodies: list[bytes]) -> None:
    app = create_app()
    async with app.router.lifespan_context(app):
        service = app.state.service
        while service.model is None:
            await asyncio.sleep(0.01)
        parts = _parts(service.model, bodies)
        whole, silent = await _whole(app, bodies)
    parts[REST] = silent - sum(parts.values())
    parts["access log"] = whole - silent
    print(json.dumps({name: seconds * 1e6 for name, seconds in parts.items()}))


def _parts(model: Any, bodies: list[bytes]) -> dict[str, float]:
    """Median seconds of each part."""
    rows: Callable[[Any], Any] = model.rows
    parse = partial(parse_json, most_values=model.schemas.most_values)
    contents = [parse(body) for body in bodies]
    samples = [model.request_schema.model_validate(content) for content in contents]
    taken = [rows([sample]) for sample in samples]
    tables = [model._read(row) for row in taken]
    predictions = [model.predict(table) for table in tables]
    pairs = list(zip(taken, predictions, strict=True))
    answers = [list(model.answers(*pair)) for pair in pairs]
    return {
        "parse JSON": _median(parse, bodies),
        "validate": _median(model.request_schema.model_validate, contents),
        "build the table": _median(lambda sample: model._read(rows([sample])), samples),
        "model call": _median(model.predict, tables),
        "form the answer": _median(lambda pair: list(model.answers(*pair)), pairs),
        "serialise": _median(model.write_one, answers),
    }


def _median(function: Callable[[Any], object], arguments: list[Any]) -> float:
    """Median seconds of a call, each with a different argument, after a warm-up."""
    times = []
    end = perf_counter() + 1.2 * SECONDS
    gc.collect()
    for turn in range(MOST):
        argument = arguments[turn % len(arguments)]
        started = perf_counter()
        function(argument)
        times.append(perf_counter() - started)
        if started > end:
            break
    return statistics.median(times[len(times) // 5 :])


async def _whole(app: Any, bodies: list[bytes]) -> tuple[float, float]:
    """Median seconds of a request to the ASGI application, with and without the access log."""
    log = logging.getLogger(ACCESS_LOG)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    status = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    times: tuple[list[float], list[float]] = ([], [])
    end = perf_counter() + 2.4 * SECONDS
    for turn in range(2 * MOST):
        log.disabled = bool(turn % 2)  # alternates, so that a busy moment affects both
        body = bodies[turn % len(bodies)]
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        length = str(len(body)).encode()
        headers = [
            (b"host", b"127.0.0.1:8000"),
            (b"content-type", b"application/json"),
            (b"accept", b"*/*"),
            (b"content-length", length),
        ]

        async def receive(messages: list[dict[str, Any]] = messages) -> dict[str, Any]:
            if messages:
                return messages.pop()
            return await asyncio.Future[dict[str, Any]]()  # the client stays connected

        started = perf_counter()
        await app({**scope, "headers": headers, "state": {}}, receive, send)
        times[log.disabled].append(perf_counter() - started)
        if status != 200:
            raise SystemExit(f"the application answered {status}")
        if started > end:
            break
    with_log, without = (statistics.median(each[len(each) // 5 :]) for each in times)
    return with_log, without


if __name__ == "__main__":
    lines = Path(sys.argv[1]).read_text().splitlines()
    main([line.replace(LAP, "00000").encode() for line in lines[:1000]])
