"""Builds the one compiled part of ovspane, the wildcard-intersection engine `ovspane._fastmatch`.

Everything else about the package is in pyproject.toml. The extension is optional: on a machine without a compiler or
without Cython the install succeeds and only the extension is missing, which setuptools says in its output.
"""

from pathlib import Path

from setuptools import Extension, setup

SOURCE = "ovspane/_fastmatch.pyx"


def extensions() -> list[Extension]:
    """The extension translated to C, or nothing where the source or Cython is absent."""
    if not Path(__file__).parent.joinpath(SOURCE).exists():
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("ovspane: Cython is not installed, ovspane._fastmatch is not built")
        return []
    engine = Extension("ovspane._fastmatch", [SOURCE], extra_compile_args=["-O3"], optional=True)
    translated: list[Extension] = cythonize([engine], language_level=3)
    for extension in translated:
        extension.optional = True  # cythonize() builds a new Extension and drops the flag
    return translated


setup(ext_modules=extensions())
