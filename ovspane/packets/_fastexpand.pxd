"""The packing of a simple flowgroup for _fastcompile, which cimports it: see _fastexpand.pyx."""

from libc.stdint cimport uint64_t

cdef int pack(object group, uint64_t *match) except -1
