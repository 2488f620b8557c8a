"""Builds the compiled parts of ovspane: matches (index, algebra, expansion), flows as bytes, and the schedule.

Everything else about the package is in pyproject.toml. The extensions are optional: on a machine without a compiler or
without Cython the install succeeds and only they are missing, which setuptools says in its output.
"""

from pathlib import Path

from setuptools import Extension, setup

NAMES = (
    "ovspane._fastmatch",
    "ovspane.openflow._fastflow",
    "ovspane.packets._fastalgebra",
    "ovspane.packets._fastexpand",
    "ovspane.policy.compiler._fastaccess",
    "ovspane.policy.compiler._fastcompile",
    "ovspane.policy.state._schedule",
)


def source(name: str) -> str:
    """The path of a module's Cython source, from the project's root."""
    return name.replace(".", "/") + ".pyx"


def extensions() -> list[Extension]:
    """The extensions translated to C, or nothing where Cython is absent; those whose source is there."""
    here = Path(__file__).parent
    names = [name for name in NAMES if here.joinpath(source(name)).exists()]
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("ovspane: Cython is not installed, the compiled parts are not built")
        return []
    sources = [Extension(name, [source(name)], extra_compile_args=["-O3"], optional=True) for name in names]
    translated: list[Extension] = cythonize(sources, language_level=3)
    for extension in translated:
        extension.optional = True  # cythonize() builds a new Extension and drops the flag
    return translated


setup(ext_modules=extensions())
