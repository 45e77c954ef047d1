"""Make an environment smaller without taking a module away. Used while the image is built.

    python slim.py ENVIRONMENT

- Test suites, headers and sources of the big libraries go (api: 51 MB).
- Symbol tables and debug information of extension modules go (api: 29 MB, half of
  it uvloop's; pyarrow 32 MB).
- Where numpy and scipy ship the same library, the second becomes a link (up to 3 MB).
- onnxruntime's library for C programs goes (35 MB), which its Python module holds once more, and
  its tools for graphs (4 MB) go where onnx, without which they cannot be imported, is left out.
- databricks.sdk (8 MB) goes where google-auth, which it cannot be imported without, is left out.

Whatever could be imported before can be imported afterwards, so every estimator of every
library still loads.
"""

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

# Only libraries of which it is known that nothing else reads these files. A general rule
# would break others: lazy_loader reads .pyi files at run time, onnx imports onnx.test.
LIBRARIES = (
    *("httptools", "joblib", "mlflow", "narwhals", "numpy", "pandas", "pyarrow", "scipy"),
    *("sklearn", "uvloop"),
)
# MLflow asks whether there is `databricks.agents`: `databricks` itself has to stay.
NEEDED = {
    "google/auth": ["databricks/sdk"],
    "onnx": [
        f"onnxruntime/{name}" for name in ("backend", "quantization", "tools", "transformers")
    ],
}
SOURCES = {".a", ".c", ".cpp", ".exe", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx", ".tp"}


def drop_tests_and_sources(library: Path) -> None:
    """Delete what the library needs only to be developed or compiled against."""
    folders = [*library.rglob("tests"), library / "test"]
    for folder in [path for path in folders if path.is_dir()]:
        shutil.rmtree(folder, ignore_errors=True)  # one may hold another
    for file in library.rglob("*"):
        if file.suffix in SOURCES:
            file.unlink()


def strip(libraries: list[Path]) -> None:
    """Take symbol tables and debug information away, which only linkers and debuggers read.

    With the `strip` of binutils; where that is not installed, the libraries stay as they are.
    """
    program = shutil.which("strip")
    if program is None:
        print("strip (binutils) is not installed: the image is larger", file=sys.stderr)
        return
    for library in libraries:
        # It refuses what is not a library of this machine, and leaves that alone.
        subprocess.run([program, "--strip-unneeded", library], check=False, capture_output=True)


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


def drop_what_lacks_its_library(packages: Path) -> None:
    """Delete modules that cannot be imported without a library that is not there."""
    for needed, folders in NEEDED.items():
        if not (packages / needed).exists():
            for folder in folders:
                shutil.rmtree(packages / folder, ignore_errors=True)


def main() -> None:
    (packages,) = Path(sys.argv[1]).glob("lib/python3*/site-packages")
    for name in LIBRARIES:
        drop_tests_and_sources(packages / name)
    drop_second_onnxruntime(packages)
    drop_what_lacks_its_library(packages)
    # auditwheel has rewritten what lies in *.libs; that is left alone.
    found = [path for path in packages.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    strip([library for library in found if library.parent.suffix != ".libs"])
    link_twins(packages)


if __name__ == "__main__":
    main()
