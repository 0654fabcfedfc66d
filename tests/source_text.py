"""Reading the sources as text: comments away, functions found, imports listed.

The rules of test_architecture.py stand on these few readers, so that a rule is a line or two.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
TRIPLE_QUOTED = re.compile(r'"""(.*?)"""', re.DOTALL)
FOLDERS = ("src", "attnx", "tests", "asv_bench", "tools", "docs", "examples")
CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+)?c?import\s+([\w., ]+)", re.MULTILINE)


class Function(NamedTuple):
    """A function of any of the three languages."""

    path: Path
    name: str
    lines: int  # without the docstring: a public one may be as long as it needs to be
    parameters: int  # C: all; Python: those that can be given by position


def committed(root: Path) -> list[Path]:
    """Return the files under version control (in a tree without it: all files)."""
    if (root / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
        )
        paths = [root / name for name in listed.stdout.split("\0") if name]
    else:
        paths = list(root.rglob("*"))
    return [path for path in paths if path.is_file()]


def tree(root: Path, *suffixes: str) -> list[Path]:
    """Return the source files with one of the suffixes; what a build makes is not among them."""
    folders = [root / name for name in FOLDERS]
    paths = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix in suffixes]
    return [
        path
        for path in [*paths, *(p for p in root.glob("*.py") if p.suffix in suffixes)]
        if not (path.suffix == ".c" and "_core" in path.parts)
        and not any(part.startswith((".", "build")) for part in path.relative_to(root).parts)
    ]


def c_sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the name inside src/ and the code, without comments, of each C file."""
    for path in tree(root, ".c", ".h", ".inc"):
        if path.is_relative_to(root / "src"):
            yield path.relative_to(root / "src").as_posix(), c_code(path.read_text())


def blank(text: str) -> str:
    """Replace everything but the line ends, so that line numbers stay."""
    return re.sub(r"[^\n]", " ", text)


def c_code(text: str) -> str:
    """Return C text without comments; strings stay."""
    return COMMENT_OR_STRING.sub(
        lambda found: found[0] if found[0].startswith('"') else blank(found[0]), text
    )


def cython_code(text: str) -> str:
    """Return Cython text without docstrings and comments."""
    text = TRIPLE_QUOTED.sub(lambda found: blank(found[0]), text)
    return re.sub(r"#[^\n]*", "", text)


def includes(text: str) -> list[str]:
    """Return the names that C text includes, as written between quotes or brackets."""
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', c_code(text), re.MULTILINE)


def outer_commas(text: str) -> int:
    """Count the commas outside inner brackets."""
    depth = commas = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        commas += character == "," and depth == 0
    return commas


def c_functions(path: Path) -> Iterator[Function]:
    """Find the functions that a C file defines (not those that a macro makes)."""
    text = COMMENT_OR_STRING.sub(lambda found: blank(found[0]), path.read_text())
    text = DIRECTIVE.sub(lambda found: blank(found[0]), text)
    depth, start, opened, head = 0, 0, 0, ""
    for position, character in enumerate(text):
        if character == "{":
            if depth == 0:
                head, opened = text[start:position], position
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                start = position + 1
                if found := c_function(path, head, text.count("\n", opened, position)):
                    yield found
        elif character == ";" and depth == 0:
            start = position + 1


def c_function(path: Path, head: str, body_lines: int) -> Function | None:
    """Return the function whose declaration stands before a brace, if it is one."""
    head = head.strip()
    if not head.endswith(")") or "=" in head:
        return None
    depth, begin = 0, len(head)
    for begin in range(len(head) - 1, -1, -1):
        depth += (head[begin] == ")") - (head[begin] == "(")
        if depth == 0:
            break
    inside = head[begin + 1 : -1].strip()
    parameters = 0 if inside in ("", "void") else outer_commas(inside) + 1
    name = re.findall(r"\w+", head[:begin])[-1]
    return Function(path, name, body_lines + head.count("\n") + 1, parameters)


def python_functions(path: Path) -> Iterator[Function]:
    """Find the functions and methods of a Python file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            bound = bool(names) and names[0] in ("self", "cls")
            yield Function(path, node.name, lines, len(names) - bound)


def cython_functions(path: Path) -> Iterator[Function]:
    """Find the functions of a Cython file: from its def to the next line as far left."""
    lines = cython_code(path.read_text()).splitlines()
    for first, line in enumerate(lines):
        start = re.match(r"(\s*)(?:cdef|cpdef|def)\b[^(=]*?(\w+)\(", line)
        if start is None:
            continue
        last, inside = first, False
        for number in range(first, len(lines)):
            if not lines[number].strip():
                continue
            indent = len(lines[number]) - len(lines[number].lstrip())
            if inside and indent <= len(start[1]) and not lines[number].lstrip().startswith(")"):
                break
            inside, last = True, number
        text = "\n".join(lines[first : last + 1])
        signature = re.match(
            r"[^(]*\((.*?)\)\s*(?:noexcept|nogil|except|with|->|:|\s)", text, re.DOTALL
        )
        inner = signature[1].split("*")[0] if signature else ""
        filled = sum(1 for line in lines[first : last + 1] if line.strip())
        yield Function(path, start[2], filled, inner.count(",") + bool(inner.strip(", \n")))


def python_imports(path: Path, module: str) -> set[str]:
    """Return the modules of attnx that a Python file imports, anywhere in it, by full name."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "attnx"}


def cython_imports(path: Path) -> set[str]:
    """Return what a Cython file imports or cimports, as written."""
    found = set()
    for source, names in CYTHON_IMPORT.findall(cython_code(path.read_text())):
        found |= {source} if source else {name.split()[0] for name in names.split(",")}
    return found


def functions(root: Path) -> Iterator[Function]:
    """Yield every function of the tree."""
    for path in tree(root, ".py"):
        yield from python_functions(path)
    for path in tree(root, ".pyx", ".pxd"):
        yield from cython_functions(path)
    for path in tree(root, ".c", ".h"):
        yield from c_functions(path)
