"""Make an environment smaller without taking a module away. Used while the image is built.

    python slim.py ENVIRONMENT

- Test suites, headers and sources of the big libraries go (api: 51 MB).
- Symbol tables and debug information of extension modules go (api: 29 MB, half of
  it uvloop's; pyarrow 32 MB).
- Where numpy and scipy ship the same library, the second becomes a link (up to 3 MB).

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
LIBRARIES = ("joblib", "mlflow", "narwhals", "numpy", "pandas", "pyarrow", "scipy", "sklearn")
SOURCES = {".a", ".c", ".cpp", ".exe", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx", ".tp"}


def drop_tests_and_sources(library: Path) -> None:
    """Delete what the library needs only to be developed or compiled against."""
    for folder in [path for path in library.rglob("tests") if path.is_dir()]:
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


def main() -> None:
    (packages,) = Path(sys.argv[1]).glob("lib/python3*/site-packages")
    for name in LIBRARIES:
        drop_tests_and_sources(packages / name)
    for library in packages.rglob("*.so*"):
        # auditwheel has rewritten what lies in *.libs; leave that alone.
        if library.is_file() and not library.is_symlink() and library.parent.suffix != ".libs":
            strip(library)
    link_twins(packages)


if __name__ == "__main__":
    main()
