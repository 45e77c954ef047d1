"""Our own systems: a rendered project with each of its engines."""

from benchmarks.batch_systems import Batch
from benchmarks.systems import System

ENGINES = {"compiled": "onnx", "native": "native"}
"""The names of environments, and the value of `--engine`."""
GROUPS = {"compiled": "compiled", "native": "api"}
"""The dependency group of the project installed in the environment."""
WIDE = (100, 300)


def systems() -> list[System]:
    """Both engines with one and with two workers, and with wider tables."""
    return [
        *(_system(name, workers=workers) for name in ENGINES for workers in (1, 2)),
        *(_system(name, columns=columns) for columns in WIDE for name in ENGINES),
    ]


def _system(name: str, workers: int = 1, columns: int = 10) -> System:
    key, title = name, f"**{name}**"
    if workers > 1:
        key, title = f"{key}-{workers}-workers", f"{title}, {workers} workers"
    is_wide = columns in WIDE
    if is_wide:
        key, title = f"{key}-{columns}-columns", f"{title}, {columns} columns"
    command = "mmp serve-api --config-path {config} --model-uri {model} --port {port}"
    return System(
        key=key,
        title=title,
        kind="ours",
        command=(*command.split(), "--workers", str(workers), "--engine", ENGINES[name]),
        path="/predict",
        answer=("prediction",),
        env=name,
        compiled=name == "compiled",
        profiled=workers == 1 and not is_wide,
        columns=columns,
        clients=(1, 32) if is_wide else (1, 8, 32),
        rates=() if is_wide else (50, 500),
    )


def batches() -> list[Batch]:
    """Both engines, in one process and on Spark."""
    return [_batch(name, is_spark) for is_spark in (False, True) for name in ("native", "compiled")]


def _batch(name: str, is_spark: bool) -> Batch:
    command = "mmp batch-inference --config-path {config} --model-uri {model}"
    command += f" --data-path {{input}} --output-path {{output}} --engine {ENGINES[name]}"
    groups = ("inference", "compiled")
    return Batch(
        key=f"spark-{name}" if is_spark else name,
        title=f"**{name}** on Spark" if is_spark else f"**{name}**",
        kind="ours",
        command=(*command.split(), *(("--on", "spark", "--master", "{master}") * is_spark)),
        env="batch-spark" if is_spark else "batch",
        inputs=("parquet",) if is_spark else ("parquet", "csv", "wide"),
        is_spark=is_spark,
        groups=(*groups, "spark") if is_spark else groups,
    )
