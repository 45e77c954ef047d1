"""The load generator and the report of `make bench`, tested with servers made here."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar, cast

import httptools
import pytest
import uvloop

from benchmarks import batch_report, ours, report
from benchmarks.batch import Figures as BatchFigures
from benchmarks.batch_systems import read_batches
from benchmarks.load import LAP, Result, Target, closed_loop, open_loop
from benchmarks.processes import SystemFailed, free_port, measure, serving, tree
from benchmarks.serving import Figures
from benchmarks.systems import HERE, body, read_systems

BODIES = [f'{{"a": {row}.5{LAP}, "b": "x"}}' for row in range(7)]


class Tiny(asyncio.Protocol):
    """A server that records what it receives, and answers with `Tiny.answer`."""

    bodies: ClassVar[list[bytes]]
    answer: ClassVar[Callable[["Tiny"], None]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.bodies.append(data)

    def on_message_complete(self) -> None:
        self.answer()

    def reply(self, status: int = 200, more: str = "") -> None:
        self.transport.write(
            f"HTTP/1.1 {status} Any\r\nContent-Length: 2\r\n{more}\r\n{{}}".encode()
        )


def loaded(
    answer: Callable[[Tiny], None], load: Callable[[Target], Awaitable[Result]]
) -> tuple[Result, list[bytes]]:
    """Put a load on a tiny server; return the result, and the bodies that the server received."""
    bodies: list[bytes] = []

    async def run() -> Result:
        protocol = type("Server", (Tiny,), {"bodies": bodies, "answer": answer})
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        async with server:
            return await load(Target(server.sockets[0].getsockname()[1], "/predict", BODIES))

    return uvloop.run(run()), bodies


def test_a_closed_loop_sends_nothing_twice() -> None:
    result, bodies = loaded(Tiny.reply, lambda target: closed_loop(target, 3, 0.1, 0.3))
    assert result.errors == {}
    assert result.answered > 100
    assert result.per_second == pytest.approx(result.answered / 0.3)
    assert 0 < result.p50 <= result.p95 <= result.p99 <= result.worst < 1000
    assert len(set(bodies)) == len(bodies)
    assert json.loads(bodies[8]) == {"a": 1.500001, "b": "x"}


def test_errors_are_counted_and_never_measured() -> None:
    count = 0

    def answer(server: Tiny) -> None:
        nonlocal count
        count += 1
        if count % 5 == 0:
            server.transport.close()
        elif count % 5 == 1:
            server.reply(503, "Connection: close\r\n")
        else:
            server.reply()

    result, _ = loaded(answer, lambda target: closed_loop(target, 4, 0, 0.3))
    assert set(result.errors) == {"503", "connection lost"}
    assert result.answered == pytest.approx(3 * result.errors["503"], abs=4)


def test_an_open_loop_counts_a_stall_for_everybody_who_waits() -> None:
    def answer(server: Tiny) -> None:  # nobody gets an answer in the first half of each second
        loop = asyncio.get_running_loop()
        stall = max(0, 0.5 - loop.time() % 1)
        loop.call_later(stall, server.reply)

    result, bodies = loaded(answer, lambda target: open_loop(target, 200, 0, 2))
    assert result.errors == {}
    assert result.answered + result.unanswered == len(bodies)
    assert result.per_second == pytest.approx(200, rel=0.25)
    assert result.p50 < 200
    assert 350 < result.p95 < 520


def test_an_open_loop_tells_who_was_never_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.GRACE_SECONDS", 0.5)
    result, bodies = loaded(lambda _: None, lambda target: open_loop(target, 50, 0, 0.2))
    assert result.answered == 0
    assert result.unanswered == len(bodies) > 0
    assert result.worst > 500


def test_a_server_is_awaited_measured_and_ended(tmp_path: Path) -> None:
    [bare] = [system for system in read_systems() if system.env == "constant_uvloop"]
    port = free_port()
    words = bare.filled(bare.command, port=port)
    command = [sys.executable, *words[1:]]
    with serving(command, port, tmp_path, {"PORT": str(port)}) as server:
        assert 0 < server.wait("/", "{}") < 30
        assert 2**20 < server.memory() < 2**30
        assert server.process.pid in tree(server.process.pid)
    assert server.process.returncode is not None

    failing = [sys.executable, "-c", "raise ValueError('no model')"]
    with (
        serving(failing, port, tmp_path, {}) as server,
        pytest.raises(SystemFailed, match="exited with 1: ValueError: no model"),
    ):
        server.wait("/", "{}")


def test_a_command_is_measured_with_all_its_processes(tmp_path: Path) -> None:
    inner = "import time; kept = bytearray(b'x') * 200_000_000; time.sleep(0.5)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    usage = measure([sys.executable, "-c", outer], tmp_path, {}, 30)
    assert 0.5 < usage.seconds < 10
    assert 200e6 < usage.memory < 300e6

    with pytest.raises(SystemFailed, match="exited with 1: ValueError: no rows"):
        measure([sys.executable, "-c", "raise ValueError('no rows')"], tmp_path, {}, 30)
    inner = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with pytest.raises(SystemFailed, match="longer than 1 s"):
        measure([sys.executable, "-c", outer], tmp_path, {}, 1)
    entry = Path("/proc", (tmp_path / "run.log").read_text().strip())
    deadline = time.monotonic() + 20  # the ended process is there until its new parent sees it
    while entry.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not entry.exists()


def test_every_system_is_pinned() -> None:
    systems = read_systems()
    assert len({system.key for system in [*ours.systems(), *systems]}) == len(systems) + 8
    for system in systems:
        assert all("==" in one for one in system.dependencies), system.key
        words = {"port": 1, "model": "m", "data": "d", "seconds": 1}
        assert "{" not in "".join(system.filled(system.command, **words))
        assert (HERE / f"{system.env}.py").is_file()

    batches = [*read_batches(), *ours.batches()]
    assert len({batch.key for batch in batches}) == len(batches)
    assert sorted(one.key for one in batches if one.is_yardstick) == ["plain-script", "spark-udf"]
    for batch in batches:
        assert all("==" in one for one in batch.dependencies), batch.key
        names = {"input": "i", "output": "o", "model": "m", "config": "c", "master": "local[2]"}
        assert "{" not in "".join(batch.filled(batch.command, **names))


def test_bodies_are_json() -> None:
    columns, values = ["a", "b"], ["1.5", '"x"']
    row = {"a": 1.5, "b": "x"}
    assert json.loads(body("row", columns, values)) == row
    assert json.loads(body("dataframe_records", columns, values)) == {"dataframe_records": [row]}
    tensors = json.loads(body("v2", columns, values))["inputs"]
    assert [tensor["data"] for tensor in tensors] == [[1.5], ["x"]]
    assert [tensor["datatype"] for tensor in tensors] == ["FP64", "BYTES"]


def test_the_report_tells_figures_errors_and_failures(tmp_path: Path) -> None:
    def result(clients: int, per_second: float, **more: dict[str, int]) -> Result:
        return Result("closed", clients, 0, 1, 9, per_second, 1, 2, 3, 4, **more)  # type: ignore[arg-type]

    versions = {"scikit-learn": "1.9.1", "other": "1"}
    systems = [
        Figures(
            *("native", "**native**", "ours"),
            loads=[result(1, 100), result(32, 1500), Result("open", 0, 50, 1, 9, 50, 1, 2, 3, 4)],
            memory=250_000_000,
            ready=[1.0, 2.0, 9.0],
            versions=versions,
            parts={"parse JSON": 4.0, "model call": 496.0},
        ),
        Figures(
            *("mlflow-models-serve", "`mlflow models serve`", "peer"),
            loads=[result(1, 60), result(32, 50, errors={"503": 7})],
        ),
        Figures("broken", "Broken", "peer", failure="it exited with 1"),
    ]
    results = {
        "machine": report.machine(),
        "python": "3.11",
        "seconds": 1,
        "warm_up": 1,
        "systems": [asdict(one) for one in systems],
    }
    tables = report.tables(results)
    assert "| **native** | 100 / - / 1,500 | 1.0 / - / 1.0 | 2.0 / - / 2.0 |" in tables
    assert "503: 7" in tables
    assert "- Broken is not measured: it exited with 1" in tables
    assert "- **native**: Python 3.11, scikit-learn 1.9.1." in tables
    assert "| **native** | 1,500 | 30.0 x | 2.0 ms | 250 MB | 2.0 s |" in report.summary(results)
    assert "| **the application** | **500** |" in report.profile(results)
    assert "| uvicorn, sockets, load generator | 500 |" in report.profile(results)

    file = tmp_path / "README.md"
    file.write_text("a\n<!-- serving: begin -->\nold\n<!-- serving: end -->\nb\n")
    report.put(file, "serving", "new")
    assert file.read_text() == "a\n<!-- serving: begin -->\nnew\n<!-- serving: end -->\nb\n"


def test_the_report_of_batches_compares_with_the_yardstick() -> None:
    plain = ("plain-script", "plain script", False, True, "parquet")
    ours = ("native", "**native**", False, False, "parquet")
    figures = [
        BatchFigures(*plain, 1_000_000, [5.0, 6.0, 4.0], 740_000_000, True),
        BatchFigures(*plain, 10_000_000, [40.0], 4_500_000_000, True),
        BatchFigures(*ours, 1_000_000, [2.0], 300_000_000, True),
        BatchFigures(*ours, 10_000_000, failure="it wrote 9 rows of 10000000"),
        BatchFigures("udf", "udf", True, True, "parquet", 1_000_000, [32.0], 1_000_000_000, False),
    ]
    results = {
        "machine": report.machine(),
        "python": "3.11",
        "versions": {"plain script": {"pandas": "3.1.1", "other": "1"}},
        "figures": [asdict(one) for one in figures],
    }
    tables = batch_report.tables(results)
    both = "label, probabilities"
    assert "| Parquet, 8 columns, 1 M / 10 M rows | rows/s | x plain script |" in tables
    assert (
        f"| plain script | 200,000 / 250,000 | 1.0 / 1.0 | 5.0 / 40 | 740 MB / 4,500 MB | {both} |"
    ) in tables
    assert f"| **native** | 500,000 / - | 2.5 / - | 2.0 / - | 300 MB / - | {both} |" in tables
    assert "| Spark: Parquet, 8 columns, 1 M rows | rows/s | x udf |" in tables
    assert "| udf | 31,200 | 1.0 | 32 | 1,000 MB | label |" in tables
    assert "- plain script: Python 3.11, pandas 3.1.1." in tables
    assert "10,000,000 rows: not measured: it wrote 9 rows of 10000000" in tables
