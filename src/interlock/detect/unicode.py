"""Text that a person sees differently from how a machine reads it: invisible, bidirectional and control characters.

An agent's command may look harmless in an approval and do something else. Sources: Unicode Standard Annex 9
(bidirectional controls), "Trojan Source" (CVE-2021-42574), Unicode chapter 23 (tags, variation selectors, fillers).
"""

from __future__ import annotations

from typing import Final

from interlock.detect.finding import Finding
from interlock.lazy import lazy_pattern

_UNSEEN: Final = lazy_pattern(
    "(?P<bidirectional>[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])"
    # Tags: a whole hidden alphabet. Their only legitimate use is the flags of England, Scotland and Wales, which are skipped.
    "|\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
    "|(?P<tag>[\U000e0000-\U000e007f]+)"
    "|(?P<zero_width>[\u200b\u2060\ufeff]|(?<![\u0600-\u0dff\u1000-\u109f\U0001f000-\U0001faff\u2600-\u27bf\ufe0f])[\u200c\u200d])"
    "|(?P<invisible>[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2028\u2029\u2061-\u2065\u206a-\u206f\u2800\u3164\uffa0"
    "\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a])"
    # Variation selectors: one after a symbol, an emoji or a character of some Asian scripts is ordinary, and so is one in
    # a keycap (a digit, a selector, U+20E3). After other characters it changes nothing, and can carry hidden bytes.
    "|(?P<selectors>[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}"
    "|(?<![\u00a9\u00ae\u1000-\u109f\u203c-\u2bff\u3000-\u9fff\ua840-\ua87f\uaa60-\uaa7f\uf900-\ufaff\U0001f000-\U0001faff"
    "\U00020000-\U0003ffff])[\ufe00-\ufe0f\U000e0100-\U000e01ef](?!\u20e3))"
    "|(?P<control>[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+)"
)


SELECTORS: Final = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
"""Variation selectors. Python considers them printable."""


def find_unseen(text: str) -> list[Finding]:
    """Returns the characters of a text that are invisible, or that change how the rest is displayed.

    Kinds: `bidirectional`, `tag`, `zero_width`, `invisible`, `selectors`, `control` (escape sequences hide text on a
    terminal). Joiners inside scripts and emoji that need them are ordinary.
    """
    return [Finding(m.lastgroup, m.start(), m.end()) for m in _UNSEEN.finditer(text) if m.lastgroup]
