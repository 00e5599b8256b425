"""Drawings that lie on a disk: what figures are made of is let through to a page, and nothing else.

Anyone may have written these files. Elements, attributes and the letters of their values are listed here; scripts,
styles, addresses and handlers are not among them.
"""

from __future__ import annotations

import hashlib
import re
from xml.etree.ElementTree import ParseError, XMLParser
from xml.sax.saxutils import escape, quoteattr

from mae_lite.errors import CheckpointError

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = frozenset("g defs path use text tspan rect line circle ellipse polyline polygon clipPath image".split())
_ATTRIBUTES = frozenset(
    "id d x y x1 x2 y1 y2 cx cy r rx ry width height points transform style clip-path fill stroke stroke-width".split()
)
_ROOT = frozenset("width height viewBox version preserveAspectRatio".split())
_VALUE = re.compile(r"[\w\s#.,:;()'%+-]*")
_POINTER = re.compile(r"url\(\s*#([\w.:-]+)\s*\)")
_PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]*")
_OURS = "*{stroke-linejoin: round; stroke-linecap: butt}"
"""The one style of our own figures; the page has it for all of them."""


def cleaned(text: str) -> tuple[str, list[str]]:
    """Return a drawing as SVG for a page, and the names of what was left out of it.

    Args:
        text: of the file.

    Returns:
        SVG whose names no other drawing of the page has; and elements and attributes that no figure has.

    Raises:
        CheckpointError: when it is no SVG.
    """
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise _refusal("entities of its own")
    target = _Cleaner(hashlib.sha256(text.encode()).hexdigest()[:8])
    parser = XMLParser(target=target)
    try:
        parser.feed(text)
        parser.close()
    except ParseError as error:
        raise _refusal(str(error)) from error
    if not target.parts:
        raise _refusal("another root than svg")
    return "".join(target.parts), sorted(target.left_out)


class _Cleaner:
    """Writes what it is told of, as far as it may be in a page."""

    def __init__(self, prefix: str) -> None:
        self.parts: list[str] = []
        self.left_out: set[str] = set()
        self._prefix = prefix
        self._paths: set[str] = set()
        """Those whose copies cost no more than they do: a copy of copies could have no end."""
        self._open: list[str] = []
        self._skipped: list[str] = []
        self._hidden = ""
        """Text of the element that is skipped."""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.removeprefix(_SVG)
        if self._skipped or name not in (_ELEMENTS if self._open else {"svg"}):
            self._skipped.append(name)
            return
        kept = {} if self._open else {"xmlns": _SVG.strip("{}")}
        for key, value in attributes.items():
            allowed = self._value(name, key, value)
            if allowed is None:
                self.left_out.add(key.rpartition("}")[2])
            else:
                kept["href" if key == _HREF else key] = allowed
        self._open.append(name)
        self.parts.append(f"<{name}{''.join(f' {key}={quoteattr(value)}' for key, value in kept.items())}>")

    def end(self, _: str) -> None:
        if not self._skipped:
            self.parts.append(f"</{self._open.pop()}>")
            return
        name = self._skipped.pop()
        if not self._skipped:
            ours = name == "metadata" or (name == "style" and self._hidden.strip() == _OURS)
            self.left_out |= set() if ours else {name.rpartition("}")[2]}
            self._hidden = ""

    def data(self, text: str) -> None:
        if self._skipped:
            self._hidden += text
        elif self._open and self._open[-1] in ("text", "tspan"):
            self.parts.append(escape(text))

    def _value(self, element: str, key: str, value: str) -> str | None:
        """Return the value of an attribute as it may be written; None where it may not."""
        if key in (_HREF, "href"):
            if element == "use" and value.removeprefix("#") in self._paths:
                return f"#{self._prefix}-{value[1:]}"
            return value if element == "image" and _PNG.fullmatch(value) else None
        if key not in (_ATTRIBUTES if self._open else _ROOT) or not _VALUE.fullmatch(value):
            return None
        if key == "id":
            self._paths |= {value} if element == "path" else set()
            return f"{self._prefix}-{value}"
        pointed = _POINTER.sub(lambda match: f"url(#{self._prefix}-{match[1]})", value)
        functions = len(_POINTER.findall(value)) if key != "transform" else value.count("(")
        return None if functions < max(value.count("("), value.lower().count("url")) else pointed


def _refusal(found: str) -> CheckpointError:
    return CheckpointError(
        "a drawing cannot be shown", found=found, expected="SVG as figures have it", fix="draw it again"
    )
