"""Small Vision Transformers that work: MAE-lite pre-training, fine-tuning and fair comparison.

Importing the package is cheap; torch is loaded with the first function that needs it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

if sys.platform == "win32":  # locks, signals and the renames that a save rests on are those of POSIX
    raise ImportError(
        "mae_lite does not run on Windows itself: found win32, expected Linux or macOS\n"
        "Fix: install it in the Windows Subsystem for Linux (wsl --install), which sees the same GPU"
    )
__version__ = "0.1.0"
_WHERE = {
    "get_recipe": ("mae_lite.recipes", "get"),
    "derive": ("mae_lite.recipes", "derive"),
    "Recipe": ("mae_lite.config", "Recipe"),
    "Runtime": ("mae_lite.config", "Runtime"),
    "from_dataset": ("mae_lite.data.sources", "Objects"),
    "index_shards": ("mae_lite.data.published_index", "publish"),
    "open_source": ("mae_lite.data.opening", "open_source"),
    "run": ("mae_lite.training", "run"),
    "probe": ("mae_lite.frozen.probe", "probe"),
    "duplicates": ("mae_lite.copies.find", "duplicates"),
    "embed": ("mae_lite.frozen.embed", "embed"),
    "export": ("mae_lite.exporting.export", "export"),
    "card": ("mae_lite.report.card", "card"),
    "evaluate": ("mae_lite.evaluation.classifier", "evaluate_run"),
    "predict": ("mae_lite.predicting.predict", "predict"),
    "load_encoder": ("mae_lite.predicting.models", "load_encoder"),
    "load_classifier": ("mae_lite.predicting.models", "load_classifier"),
    "load_pyramid": ("mae_lite.predicting.models", "load_pyramid"),
    "load_run": ("mae_lite.evaluation.load", "load_run"),
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'mae_lite' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
