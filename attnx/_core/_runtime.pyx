"""Running a kernel, and choosing the instruction set that it runs on."""

import os

from attnx._core.c_attnx cimport (
    ATTNX_NO_MEMORY,
    ATTNX_NO_SUCH_ISA,
    ATTNX_OK,
    ATTNX_PANEL,
    attnx_build_flags,
    attnx_call,
    attnx_compiler,
    attnx_isa_available,
    attnx_isa_force,
    attnx_op,
    attnx_openmp_limit,
    attnx_recurrent_steps,
    attnx_run,
    attnx_run_calls,
    attnx_run_steps,
    attnx_status,
    attnx_table_now,
)

PANEL = ATTNX_PANEL


cdef int run(attnx_op op, const void *args, int num_threads) except -1 nogil:
    return succeeded(attnx_run(op, args, num_threads))


cdef int run_calls(const attnx_call *calls, Py_ssize_t count, const Py_ssize_t *starts, Py_ssize_t parts,
                   int num_threads) except -1 nogil:
    return succeeded(attnx_run_calls(calls, count, starts, parts, num_threads))


cdef int run_steps(const attnx_recurrent_steps *args, int num_threads) except -1 nogil:
    return succeeded(attnx_run_steps(args, num_threads))


cdef int succeeded(attnx_status status) except -1 nogil:
    if status == ATTNX_OK:
        return 0
    with gil:
        if status == ATTNX_NO_MEMORY:
            raise MemoryError("attnx: no memory for a call's scratch space")
        raise unknown_isa("ATTNX_ISA", os.environ.get("ATTNX_ISA"))


def unknown_isa(source, name):
    """Return the error for an instruction set that this machine does not have."""
    return ValueError(f"{source} must be one of {', '.join(available_isas())} on this machine, got {name!r}")


def available_isas():
    """Return the names of the instruction sets that this machine runs, from plain to best."""
    names = []
    while attnx_isa_available(len(names)) != NULL:
        names.append(attnx_isa_available(len(names)).decode())
    return tuple(names)


def isa():
    """Return the name of the instruction set in use."""
    if attnx_table_now() == NULL:
        raise unknown_isa("ATTNX_ISA", os.environ.get("ATTNX_ISA"))
    return attnx_table_now().name.decode()


def use_isa(str name):
    """Make an instruction set the one in use."""
    encoded = name.encode()
    if attnx_isa_force(encoded) == ATTNX_NO_SUCH_ISA:
        raise unknown_isa("name", name)


def openmp_limit():
    """Return the number of threads that OpenMP would give the calling thread."""
    return attnx_openmp_limit()


def compiler():
    """Return the compiler that built this extension."""
    return attnx_compiler().decode()


def build_flags():
    """Return the flags that the compiler was given."""
    return attnx_build_flags().decode()
