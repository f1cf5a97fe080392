"""Other people's text, made harmless: shown literally by a terminal, and never obeyed by what reads a job's log."""

from __future__ import annotations

import re
import unicodedata

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LINE_SEPARATORS = frozenset("\t\n\v\f\r\x85\u2028\u2029")
_UNSAFE = ("Cc", "Cs")
_NO_CHARACTERS = frozenset("\ufffe\uffff")  # which XML forbids
# Commands to the runner of a job: GitHub's `::error ...::` and `##[error]`, Azure Pipelines' `##vso[...]`, TeamCity's.
# GitHub's runner looks at the beginning of a line, and a terminal breaks lines at blanks, and a long word anywhere.
_COMMAND = re.compile(r"(?:^|(?<=\s)):(?=:)|(?<=:):(?=:)|:(?=:\s*\w.{0,200}::)|#(?=#\w*\[)")


def readable(text: str) -> str:
    """Without control characters, lone surrogates and direction overrides; line breaks become spaces.

    Where it would be a command to the runner of a job, a space parts it.
    """
    kept = (" " if char in _LINE_SEPARATORS else char for char in text)
    plain = "".join(char for char in kept if unicodedata.category(char) not in _UNSAFE and not _hidden(char))
    return _COMMAND.sub(lambda found: f"{found[0]} ", plain)


def _hidden(char: str) -> bool:
    return char in _BIDI_CONTROLS or char in _NO_CHARACTERS


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
