"""The rules of the architecture (CONTRIBUTING.md tells them) hold, and each is able to fail."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import architecture_rules as rules
import pytest
import source_text as source

ROOT = Path(__file__).resolve().parent.parent


def foreign_exports(names: list[str]) -> list[str]:
    """Return the defined dynamic symbols, lines of ``nm -D``, that are no module's entry."""
    allowed = re.compile(r" (PyInit_\w+|_init|_fini|_edata|_end|__bss_start)$| [wWvVuU] ")
    return [name for name in names if name.strip() and not allowed.search(name)]


@pytest.mark.parametrize(
    "rule",
    [
        rules.layering,
        rules.places,
        rules.allocation,
        rules.cython_stays_thin,
        rules.no_fallback,
        rules.sizes,
        rules.plain_sources,
        rules.public_names_are_complete,
    ],
)
def test_rule_holds(rule: rules.Rule) -> None:
    assert list(rule(ROOT)) == []


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("gcc") is None, reason="frames are measured by gcc's -Wframe-larger-than"
)
def test_no_kernel_has_a_large_frame() -> None:
    assert list(rules.frames(ROOT)) == []


def test_the_rules_read_the_sources() -> None:
    """A rule about files that are not found would hold for ever."""
    assert {name.split("/")[0] for name, _ in source.c_sources(ROOT)} >= {"simd", "kernels", "isa"}
    assert len(rules.python_graph(ROOT)) > 5
    assert source.tree(ROOT, ".pyx")
    assert {f.path.suffix for f in source.functions(ROOT)} >= {".py", ".pyx", ".c", ".h"}
    assert len(rules.public_names(ROOT)["attnx"]) > 5


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(r"[`(]((?:tests|tools|src|attnx|asv_bench|examples)/[\w./]+)[`)]", text)
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm (binutils)")
def test_extensions_export_their_entry_alone() -> None:
    core = importlib.util.find_spec("attnx._core")
    assert core is not None
    assert core.submodule_search_locations is not None
    extensions = [
        p for folder in core.submodule_search_locations for p in Path(folder).glob("*.so")
    ]
    assert extensions
    for path in extensions:
        listed = subprocess.run(
            ["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
        )
        assert foreign_exports(listed.stdout.splitlines()) == []


PLANTS = [
    (rules.layering, "attnx/_check.py", "from attnx import cli"),
    (rules.layering, "attnx/softmax.py", "from .layers import Linear"),
    (rules.layering, "attnx/layers/linear.py", "from .._core import _linear"),
    (rules.layering, "attnx/view/text.py", "import attnx.models"),
    (rules.layering, "attnx/_core/_softmax.pyx", "from attnx.softmax import softmax"),
    (rules.layering, "src/simd/avx2.h", '#include "../kernels/exp.h"'),
    (rules.layering, "src/kernels/exp.h", '#include "../dispatch.h"'),
    (rules.layering, "src/dispatch.c", '#include "simd/avx2.h"'),
    (rules.places, "src/kernels/exp.h", "#include <immintrin.h>"),
    (rules.places, "src/kernels/exp.h", "static void f(void) { _mm256_zeroupper(); }"),
    (rules.places, "src/dispatch.c", "#include <cpuid.h>"),
    (rules.places, "src/cpu.c", 'static int f(void) { return getenv("A") != 0; }'),
    (rules.places, "src/dispatch.c", "#pragma omp parallel"),
    (rules.places, "src/threads.c", "#include <Python.h>"),
    (rules.places, "src/kernels/exp.h", 'static const char *level = "avx2";'),
    (rules.places, "src/threads.c", "static void f(void) { abort(); }"),
    (rules.places, "attnx/softmax.py", "import os\nos.environ['A'] = 'B'"),
    (rules.allocation, "src/kernels/exp.h", "static void *f(void) { return malloc(1); }"),
    (rules.frames, "src/isa/scalar.c", "int f(int n) { volatile int a[n]; return a[n - 1]; }"),
    (rules.frames, "src/isa/scalar.c", "int f(int n) { volatile int a[5000]; return a[n]; }"),
    (rules.cython_stays_thin, "attnx/_core/_softmax.pyx", 'cdef extern from "attnx.h":\n    pass'),
    (rules.cython_stays_thin, "attnx/_core/_softmax.pyx", "for i in range(rows):\n    x[i] = 0"),
    (rules.cython_stays_thin, "attnx/_core/_softmax.pyx", "raise ValueError('shape')"),
    (rules.no_fallback, "attnx/softmax.py", "from .reference import softmax"),
    (rules.no_fallback, "attnx/softmax.py", "try:\n    from . import _core\nexcept Exception: ..."),
    (rules.sizes, "attnx/softmax.py", "x = 1\n" * 301),
    (rules.sizes, "src/isa/avx2.c", "/* */\n" * 26),
    (rules.sizes, "src/kernels/exp.h", f"static void f({'int (*g)(int, int), ' * 8}int i) {{}}"),
    (rules.sizes, "src/kernels/exp.h", "static void f(void) {\n" + "    ;\n" * 60 + "}"),
    (rules.sizes, "attnx/softmax.py", "def f(a, b, c, d, e, g, h): ..."),
    (rules.sizes, "attnx/_core/_softmax.pyx", "cdef int f(int a) noexcept:\n" + "    a = 1\n" * 60),
    (rules.plain_sources, "attnx/utils.py", "x = 1"),
    (rules.plain_sources, "attnx/_core/_softmax.c", "/* Generated by Cython */"),
    (rules.plain_sources, "src/kernels/exp.h.in", "x"),
    (rules.plain_sources, "src/kernels/exp.h", "#if 0\n#endif"),
    (rules.plain_sources, "attnx/softmax.py", "def softmax_old(): ..."),
    (rules.public_names_are_complete, "attnx/__init__.py", "__all__ = ['softmax']"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "text"), PLANTS)
def test_a_planted_violation_is_found(
    tmp_path: Path, rule: Callable[[Path], Iterator[str]], name: str, text: str
) -> None:
    if rule is rules.frames and shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    small_tree(tmp_path)
    assert list(rule(tmp_path)) == []
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{text}\n")
    assert list(rule(tmp_path)) != []


@pytest.mark.parametrize(
    ("body", "tests"),
    [
        ("def softmax():\n    return 1", "softmax"),
        ('def softmax():\n    """Doc."""\n    raise NotImplementedError', "softmax"),
        ('def softmax():\n    """Doc."""\n    return 1', ""),
    ],
)
def test_an_incomplete_public_name_is_found(tmp_path: Path, body: str, tests: str) -> None:
    write_tree(
        tmp_path,
        {
            "attnx/__init__.py": "__all__ = ['softmax']",
            "attnx/softmax.py": body,
            "tests/test_softmax.py": tests,
        },
    )
    assert len(list(rules.public_names_are_complete(tmp_path))) == 1


def test_a_foreign_export_is_found() -> None:
    lines = ["0000 T PyInit__softmax", "0000 D attnx_table", "0000 w __gmon_start__", ""]
    assert foreign_exports(lines) == ["0000 D attnx_table"]


def small_tree(root: Path) -> None:
    """Write a tree that keeps every rule."""
    sources = {
        "src/attnx.h": "#include <stddef.h>\n",
        "src/dispatch.h": "",
        "src/dispatch.c": '#include "dispatch.h"\n#include <stdlib.h>\n',
        "src/threads.c": "#pragma omp parallel\n",
        "src/simd/avx2.h": "#include <immintrin.h>\n",
        "src/kernels/exp.h": '#include "../attnx.h"\n/* malloc( */\nstatic int f(int a) {\n}\n',
        "src/isa/scalar.c": '#include "../kernels/exp.h"\n',
        "attnx/__init__.py": "from .softmax import softmax\n",
        "attnx/_check.py": "import numpy\n",
        "attnx/softmax.py": "from . import _check\nfrom ._core import _softmax\n",
        "attnx/models/__init__.py": "",
        "attnx/view/__init__.py": "",
        "attnx/cli.py": "from . import models, view\n",
        "attnx/reference.py": "import numpy\n",
        "attnx/layers/__init__.py": "from ..softmax import softmax\n",
        "attnx/_core/__init__.py": "",
        "attnx/_core/_softmax.pyx": "cimport c_attnx\nfor i in range(axes):\n    pass\n",
        "attnx/_core/c_attnx.pxd": 'cdef extern from "attnx.h":\n    pass\n',
        "tests/test_softmax.py": "",
    }
    write_tree(root, sources)


def write_tree(root: Path, sources: dict[str, str]) -> None:
    """Write files by name."""
    for name, text in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
