"""Vectors without a model server or a network: the static embeddings that the package `wordllama` ships. The extra `infer`.

Its files are read here, with the library of their formats: the package's own loader looks on the network for what it does not
find. A text's vector is the mean of the rows of its tokens, of length 1. Similarities of such vectors are those of words, not of
sentences: they do not see negation or order.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

_PACKAGE: Final = "wordllama"
_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"
_DIGITS: Final = 6


class StaticEmbedder:
    """Turns texts into vectors. Safe in threads."""

    def __init__(self, directory: Path) -> None:
        """Read the files of the package. Raises: OSError if they are not what is expected."""
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(directory / _TOKENIZER))
            (self._rows,) = load_file(directory / _WEIGHTS).values()
        except Exception as error:  # these libraries raise anything
            raise OSError(f"{directory}: {error}") from error

    def vectors(self, texts: Sequence[str], check: Callable[[], None]) -> tuple[list[list[float]], int]:
        """A vector for each text, and how many tokens they were. `check` is called before each text, and may raise."""
        found, count = [], 0
        for text in texts:
            check()
            # One by one: a batch would start threads, and a program that forks after that is warned about.
            tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
            count += len(tokens)
            mean = self._rows[tokens].astype(np.float32).mean(axis=0) if tokens else np.zeros(self._rows.shape[1])
            length = float(np.linalg.norm(mean))
            found.append([round(float(number), _DIGITS) for number in (mean / length if length else mean)])
        return found, count


@functools.cache
def embedder() -> StaticEmbedder:
    """The one of this process. Raises: as `StaticEmbedder`."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the package `{_PACKAGE}` is not installed")
    return StaticEmbedder(Path(found.origin).parent)


def similarities(of: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
    """The cosine of one vector with each of the others, from 0 (or less) to 1."""
    return [round(min(1.0, max(0.0, sum(a * b for a, b in zip(of, one, strict=True)))), _DIGITS) for one in others]
