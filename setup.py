"""The extensions and their flags; everything else is in pyproject.toml."""

import platform
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

# No contraction: the kernels write fma where they mean it, so that a loop's tail rounds like its body.
# Never -ffast-math: at link time it makes the whole process flush denormals to zero.
FLAGS = [
    "-std=c11",
    "-O3",
    "-g0",
    "-fopenmp",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
]
HARDENING = ["-fstack-protector-strong", "-fstack-clash-protection"]
if platform.machine() == "x86_64":
    HARDENING.append("-fcf-protection")
LINK = ["-fopenmp", "-Wl,-z,relro,-z,now,-z,noexecstack", "-Wl,-s"]
MACROS = [("_GNU_SOURCE", "1"), ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
MACROS.append(("ATTNX_BUILD_FLAGS", '"' + " ".join(FLAGS + HARDENING) + '"'))  # attnx info


def extension(noun: str, sources: list[str], flags: list[str]) -> Extension:
    """Return the extension of one noun of attnx._core."""
    return Extension(
        f"attnx._core._{noun}",
        [f"attnx/_core/_{noun}.pyx", *sources],
        include_dirs=["src", numpy.get_include()],
        depends=glob("src/**/*.h", recursive=True) + ["src/ops.inc"],
        define_macros=MACROS,
        extra_compile_args=FLAGS + HARDENING + flags,
        extra_link_args=LINK,
    )


# _runtime holds the C library; the others reach it through Cython's C-level import, so there is one thread team.
# Those only pass arrays on: at -Os they are 171 KB of a wheel, at -O3 206 KB, and no call is slower.
EXTENSIONS = [extension("runtime", sorted(glob("src/*.c") + glob("src/isa/*.c")), [])]
EXTENSIONS += [
    extension(noun, [], ["-Os"])
    for noun in (
        "arrays",
        "attention",
        "summary",
        "additive",
        "softmax",
        "layers",
        "recurrent",
        "rotary",
    )
]

setup(
    ext_modules=cythonize(
        EXTENSIONS,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
            "freethreading_compatible": True,
        },
    )
)
