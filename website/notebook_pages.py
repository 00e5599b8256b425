"""Notebooks as pages, with the outputs that they were saved with."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter


def rendered(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by path beside the page."""
    exporter = MarkdownExporter()  # type: ignore[no-untyped-call]
    resources = {"output_files_dir": f"{path.stem}_files", "unique_key": path.stem}
    book = nbformat.reads(path.read_text(), as_version=4)  # type: ignore[no-untyped-call]
    text, made = exporter.from_notebook_node(book, resources=resources)
    return text, made["outputs"]
