"""Make an environment smaller without taking a module away. Used while the image is built.

    python slim.py ENVIRONMENT

- Test suites, headers and sources of the big libraries go (api: 53 MB).
- Symbol tables and debug information of extension modules go (api: 29 MB, half of
  it uvloop's; pyarrow 32 MB).
- Where numpy and scipy ship the same library, the second becomes a link (up to 3 MB).
- onnxruntime's library for C programs goes (35 MB), which its Python module holds once more.
- Parts of a library that cannot be imported without another one, which is not there, go:
  onnxruntime's tools for graphs (4 MB) without onnx, MLflow's server (1 MB) without Flask.

Whatever could be imported before can be imported afterwards, so every estimator of every
library still loads. Each RECORD lists what is left, so that scanners agree with it.
"""

import base64
import csv
import filecmp
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

# Only libraries of which it is known that nothing else reads these files. A general rule
# would break others: lazy_loader reads .pyi files at run time, onnx imports onnx.test.
LIBRARIES = (
    *("httptools", "joblib", "mlflow", "narwhals", "numpy", "pandas", "pyarrow", "scipy"),
    *("sklearn", "skops", "uvloop"),
)
PARTS = {
    "flask": ("mlflow/server",),
    "onnx": tuple(
        f"onnxruntime/{name}" for name in ("backend", "quantization", "tools", "transformers")
    ),
}
"""What cannot be imported without the library that is named first."""
SOURCES = {".a", ".c", ".cpp", ".exe", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx", ".tp"}


def drop_tests_and_sources(library: Path) -> None:
    """Delete what the library needs only to be developed or compiled against."""
    folders = [*library.rglob("tests"), library / "test"]
    for folder in [path for path in folders if path.is_dir()]:
        shutil.rmtree(folder, ignore_errors=True)  # one may hold another
    for file in library.rglob("*"):
        if file.suffix in SOURCES or is_extension_for_tests(file):
            file.unlink()


def is_extension_for_tests(file: Path) -> bool:
    """Whether a file is an extension module that the library's test suite alone imports."""
    name = file.name.partition(".")[0]
    # numpy/_core/_simd.so gives instructions of the processor to its tests.
    is_for_tests = name == "_simd" or name.startswith("_test_") or name.endswith("_tests")
    return file.suffix == ".so" and is_for_tests


def strip(libraries: list[Path]) -> None:
    """Take symbol tables and debug information away, which only linkers and debuggers read.

    With the `strip` of binutils; where that is not installed, the libraries stay as they are.
    """
    program = shutil.which("strip")
    if program is None:
        print("strip (binutils) is not installed: the image is larger", file=sys.stderr)
        return
    if libraries:
        # It refuses what is not a library of this machine, leaves that alone, and goes on.
        subprocess.run([program, "--strip-unneeded", *libraries], check=False, capture_output=True)


def link_twins(packages: Path) -> None:
    """Keep one of the libraries, such as Fortran's, that several wheels have brought along.

    auditwheel names them by a hash of their content.
    """
    kept: dict[str, Path] = {}
    for library in sorted(packages.glob("*.libs/*.so*")):
        twin = kept.setdefault(library.name, library)
        if twin is not library and filecmp.cmp(twin, library, shallow=False):
            library.unlink()
            library.symlink_to(Path("..", twin.parent.name, twin.name))


def drop_second_onnxruntime(packages: Path) -> None:
    """Delete onnxruntime's library for C programs where its Python module does not load it."""
    for module in packages.glob("onnxruntime/capi/onnxruntime_pybind11_state*.so"):
        if b"libonnxruntime.so" not in module.read_bytes():
            for library in module.parent.glob("libonnxruntime.so*"):
                library.unlink()


def drop_parts_that_cannot_be_imported(packages: Path) -> None:
    """Delete parts of libraries where what they need is not."""
    for needed, parts in PARTS.items():
        if not (packages / needed).exists():
            for part in parts:
                shutil.rmtree(packages / part, ignore_errors=True)


def stand_in_for_databricks(packages: Path) -> None:
    """MLflow asks whether there is `databricks.agents`, which fails without `databricks`."""
    if (packages / "mlflow").exists():
        (packages / "databricks").mkdir(exist_ok=True)


def rewrite_records(packages: Path) -> None:
    """Have each distribution list the files that are left of it, as they are now.

    https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    for record in packages.glob("*.dist-info/RECORD"):
        with record.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if (packages / row[0]).exists()]
        with record.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(
                (name, *measure(packages / name)) if digest else (name, digest, size)
                for name, digest, size in rows
            )


def measure(file: Path) -> tuple[str, int]:
    """Hash and size of a file, as RECORD has them."""
    content = file.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}", len(content)


def main() -> None:
    (packages,) = Path(sys.argv[1]).glob("lib/python3*/site-packages")
    for name in LIBRARIES:
        drop_tests_and_sources(packages / name)
    drop_second_onnxruntime(packages)
    drop_parts_that_cannot_be_imported(packages)
    stand_in_for_databricks(packages)
    # auditwheel has rewritten what lies in *.libs; that is left alone.
    found = [path for path in packages.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    strip([library for library in found if library.parent.suffix != ".libs"])
    link_twins(packages)
    rewrite_records(packages)


if __name__ == "__main__":
    main()
