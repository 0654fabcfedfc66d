"""The engines: one module each, with the functions `version` and `prepare` (see form.py).

A module is imported in its engine's own process only, so what it needs may be missing elsewhere.
"""

from __future__ import annotations

#: Engine name to module name; the order is that of the table's columns.
MODULES = {
    "attnx": "with_attnx",
    "torch": "with_torch",
    "onnxruntime": "with_onnxruntime",
    "openvino": "with_openvino",
    "ctranslate2": "with_ctranslate2",
    "jax": "with_jax",
    "numpy": "with_numpy",
}
