"""Make an environment smaller without removing modules. Used during the image build.

    python slim.py ENVIRONMENT

It removes or replaces:

- test suites, headers and sources of the big libraries (api: 53 MB)
- symbol tables and debug information of extension modules (api: 29 MB, half of it in uvloop;
  pyarrow 32 MB)
- libraries that both numpy and scipy ship; the second becomes a link (up to 3 MB)
- onnxruntime's library for C programs (35 MB), which its Python module also contains
- archives of Java that Spark needs only for streams (pyspark: 69 MB)
- parts of a library that cannot be imported because another library is not installed:
  onnxruntime's graph tools (4 MB) without onnx, MLflow's server (1 MB) without Flask

Every module that could be imported before can still be imported, so every estimator of every
library still loads. Each RECORD is rewritten to list the remaining files, for scanners.
"""

import base64
import csv
import filecmp
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

# Only libraries whose files of this kind are known to be unused. A general rule would break
# other libraries: lazy_loader reads .pyi files at run time, onnx imports onnx.test.
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
"""Library -> parts that cannot be imported without it."""
SOURCES = {".a", ".c", ".cpp", ".exe", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx", ".tp"}


def drop_tests_and_sources(library: Path) -> None:
    """Delete files that are needed only for developing or compiling against the library."""
    folders = [*library.rglob("tests"), library / "test"]
    for folder in [path for path in folders if path.is_dir()]:
        shutil.rmtree(folder, ignore_errors=True)  # one may contain another
    for file in library.rglob("*"):
        if file.suffix in SOURCES or is_extension_for_tests(file):
            file.unlink()


def is_extension_for_tests(file: Path) -> bool:
    """Whether a file is an extension module that only the library's tests import."""
    name = file.name.partition(".")[0]
    # numpy/_core/_simd.so exposes processor instructions to numpy's tests.
    is_for_tests = name == "_simd" or name.startswith("_test_") or name.endswith("_tests")
    return file.suffix == ".so" and is_for_tests


def strip(libraries: list[Path]) -> None:
    """Remove symbol tables and debug information, which only linkers and debuggers read.

    This needs `strip` from binutils; without it the libraries stay unchanged.
    """
    program = shutil.which("strip")
    if program is None:
        print("strip (binutils) is not installed: the image is larger", file=sys.stderr)
        return
    if libraries:
        # strip skips files that are not libraries for this machine.
        subprocess.run([program, "--strip-unneeded", *libraries], check=False, capture_output=True)


def link_twins(packages: Path) -> None:
    """Keep one copy of each library, such as Fortran's, that several wheels contain.

    auditwheel names these libraries by a hash of their content.
    """
    kept: dict[str, Path] = {}
    for library in sorted(packages.glob("*.libs/*.so*")):
        twin = kept.setdefault(library.name, library)
        if twin is not library and filecmp.cmp(twin, library, shallow=False):
            library.unlink()
            library.symlink_to(Path("..", twin.parent.name, twin.name))


def drop_second_onnxruntime(packages: Path) -> None:
    """Delete onnxruntime's library for C programs if its Python module does not load it."""
    for module in packages.glob("onnxruntime/capi/onnxruntime_pybind11_state*.so"):
        if b"libonnxruntime.so" not in module.read_bytes():
            for library in module.parent.glob("libonnxruntime.so*"):
                library.unlink()


def drop_parts_that_cannot_be_imported(packages: Path) -> None:
    """Delete parts of libraries whose dependency is not installed."""
    for needed, parts in PARTS.items():
        if not (packages / needed).exists():
            for part in parts:
                shutil.rmtree(packages / part, ignore_errors=True)


def prepare_java(packages: Path, libraries: Path) -> None:
    """Unpack the libraries for compression that Spark would unpack into /tmp at run time.

    Docker's --tmpfs forbids programs there. The environment of the image says where they are.
    """
    jars = packages / "pyspark" / "jars"
    for jar in jars.glob("rocksdbjni-*.jar"):
        jar.unlink()
    machine = platform.machine()
    wanted = re.compile(
        rf"org/xerial/snappy/native/Linux/{machine}/libsnappyjava\.so"
        rf"|linux/{'amd64' if machine == 'x86_64' else machine}/libzstd-jni-[\d.-]+\.so"
    )
    for pattern in ("snappy-java-*.jar", "zstd-jni-*.jar"):
        for jar in jars.glob(pattern):
            with zipfile.ZipFile(jar) as archive:
                for name in filter(wanted.fullmatch, archive.namelist()):
                    libraries.mkdir(exist_ok=True)
                    (libraries / Path(name).name).write_bytes(archive.read(name))


def stand_in_for_databricks(packages: Path) -> None:
    """Create an empty `databricks`: MLflow's check for `databricks.agents` fails without it."""
    if (packages / "mlflow").exists():
        (packages / "databricks").mkdir(exist_ok=True)


def rewrite_records(packages: Path) -> None:
    """Make each RECORD list the remaining files with their current hashes.

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
    """Hash and size of a file in the format of RECORD."""
    content = file.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}", len(content)


def main() -> None:
    (packages,) = Path(sys.argv[1]).glob("lib/python3*/site-packages")
    for name in LIBRARIES:
        drop_tests_and_sources(packages / name)
    drop_second_onnxruntime(packages)
    drop_parts_that_cannot_be_imported(packages)
    prepare_java(packages, Path(sys.argv[1], "java"))
    stand_in_for_databricks(packages)
    # Libraries in *.libs were rewritten by auditwheel and must not be stripped.
    found = [path for path in packages.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    strip([library for library in found if library.parent.suffix != ".libs"])
    link_twins(packages)
    rewrite_records(packages)


if __name__ == "__main__":
    main()
