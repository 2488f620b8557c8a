"""Compiled modules built anew from changed sources, in a folder of their own: for tests that break them on purpose."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def source_of(module: str, suffix: str = ".pyx") -> str:
    """The path of a dotted module's source, from the project's root."""
    return module.replace(".", "/") + suffix


def copy_sources(folder: Path) -> None:
    """All Cython sources of ovspane, in packages that are empty but for them, below the folder."""
    for path in ROOT.joinpath("ovspane").rglob("*.p[yx][xd]"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for package in (folder / "ovspane", *(path for path in folder.joinpath("ovspane").rglob("*") if path.is_dir())):
        (package / "__init__.py").touch()


def build(module: str, folder: Path) -> Path:
    """The extension of the dotted module in the folder of `copy_sources`, compiled in a hurry. Raises
    CalledProcessError."""
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", source_of(module)], cwd=folder, check=True, capture_output=True
    )
    library = folder / f"{module.rsplit('.', 1)[-1]}{sysconfig.get_config_var('EXT_SUFFIX')}"
    compiler = str(sysconfig.get_config_var("CC") or "cc").split()
    include = f"-I{sysconfig.get_paths()['include']}"
    command = [
        *compiler,
        "-O0",
        "-w",
        "-fwrapv",
        "-fPIC",
        "-shared",
        include,
        source_of(module, ".c"),
        "-o",
        str(library),
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return library
