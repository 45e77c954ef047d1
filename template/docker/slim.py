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
import struct
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


def strip(library: Path) -> None:
    """Cut an ELF file after its last segment, as ``sstrip`` does.

    The loader maps segments only (System V ABI, program header table). Behind them lie
    symbol tables, debug information and section headers, for linkers and debuggers.
    """
    elf = bytearray(library.read_bytes())
    if elf[:6] != b"\x7fELF\x02\x01":  # 64 bit, little endian: amd64 and arm64
        return
    (start,) = struct.unpack_from("<Q", elf, 32)  # e_phoff
    size, count = struct.unpack_from("<HH", elf, 54)  # e_phentsize, e_phnum
    end = start + size * count
    for header in range(start, end, size):
        (offset,) = struct.unpack_from("<Q", elf, header + 8)  # p_offset
        (length,) = struct.unpack_from("<Q", elf, header + 32)  # p_filesz
        end = max(end, offset + length)
    if end >= len(elf):
        return
    del elf[end:]
    struct.pack_into("<Q", elf, 40, 0)  # e_shoff: no section headers any more
    struct.pack_into("<HHH", elf, 58, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    library.write_bytes(elf)


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
    for library in packages.rglob("*.so*"):
        # auditwheel has rewritten what lies in *.libs; leave that alone.
        if library.is_file() and not library.is_symlink() and library.parent.suffix != ".libs":
            strip(library)
    link_twins(packages)


if __name__ == "__main__":
    main()
