"""Builds the compiled parts of ovspane: matches (index, algebra, expansion), flows as bytes, and the schedule.

Everything else about the package is in pyproject.toml. The extensions are optional: on a machine without a compiler or
without Cython the install succeeds and only they are missing, which setuptools says in its output.
"""

from pathlib import Path

from setuptools import Extension, setup

NAMES = ("_fastaccess", "_fastalgebra", "_fastcompile", "_fastexpand", "_fastflow", "_fastmatch", "_schedule")


def extensions() -> list[Extension]:
    """The extensions translated to C, or nothing where Cython is absent; those whose source is there."""
    here = Path(__file__).parent
    names = [name for name in NAMES if here.joinpath("ovspane", f"{name}.pyx").exists()]
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("ovspane: Cython is not installed, the compiled parts are not built")
        return []
    sources = [
        Extension(f"ovspane.{name}", [f"ovspane/{name}.pyx"], extra_compile_args=["-O3"], optional=True) for name in names
    ]
    translated: list[Extension] = cythonize(sources, language_level=3)
    for extension in translated:
        extension.optional = True  # cythonize() builds a new Extension and drops the flag
    return translated


setup(ext_modules=extensions())
