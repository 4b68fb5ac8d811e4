"""Words of a free text that the series choice looks for; what is given back is the configured word, never the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

__all__ = ["any_kernel", "matching_word", "without_denials"]

# "without contrast" in the languages of the makers' default protocols; cut out before words of contrast are looked for.
_NO_CONTRAST: Final = re.compile(
    r"(?<![^\W\d_])(non|no|without|w/o|wo|sans|ohne|sin|senza|pre)[\s_\-]*(iv[\s_\-]*)?(contrast\w*|kontrast\w*|km\b|c\+)",
    re.IGNORECASE,
)


@lru_cache(maxsize=512)
def _word_pattern(word: str) -> re.Pattern[str]:
    # Short words are whole words: "cta" is one, the beginning of "ctangle" is none. Letters only make a border, since
    # descriptions join words by underscores, digits and slashes.
    end = r"(?![^\W\d_])" if len(word) <= 3 else ""
    return re.compile(rf"(?<![^\W\d_]){re.escape(word.lower())}{end}")


def matching_word(text: str, words: Sequence[str]) -> str | None:
    """Give the first of the configured words that a text in lower case holds; never a piece of the text itself."""
    return next((word for word in words if word and _word_pattern(word).search(text)), None)


def without_denials(text: str) -> str:
    """Cut "without contrast" and its like out of a text.

    Examples
    --------
    >>> without_denials("head non-contrast 5mm")
    'head   5mm'
    """
    return _NO_CONTRAST.sub(" ", text)


@lru_cache(maxsize=1024)
def any_kernel(kernel: str, patterns: tuple[str, ...]) -> bool:
    """Say whether a ConvolutionKernel matches one of the regular expressions."""
    # Siemens writes two values, the kernel and its strength; any that matches counts.
    values = [value.strip() for value in kernel.upper().split("\\")]
    return any(re.search(pattern, value, re.IGNORECASE) for pattern in patterns for value in values)
