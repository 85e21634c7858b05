"""Vectors without a model server or a network: the static embeddings in the package `wordllama` (extra `infer`).

The package's files are read here with the libraries for their formats, because its own loader looks on the network for
missing files. A text's vector is the mean of its tokens' rows, normalized to length 1. Such vectors compare words, not
sentences: they do not reflect negation or word order.
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
WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"
_DIGITS: Final = 6


class StaticEmbedder:
    """Converts texts to vectors. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Read the files of the package. Raises: OSError if they are not as expected."""
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(directory / _TOKENIZER))
            (self._rows,) = load_file(directory / WEIGHTS).values()
        except Exception as error:  # these libraries raise arbitrary exceptions
            raise OSError(f"{directory}: {error}") from error

    def vectors(self, texts: Sequence[str], check: Callable[[], None]) -> tuple[list[list[float]], int]:
        """Returns a vector for each text, and the total number of tokens. `check` is called before each text, and may raise."""
        found, count = [], 0
        for text in texts:
            check()
            # One by one: a batch would start threads, and Python warns when a process forks after that.
            tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
            count += len(tokens)
            mean = self._rows[tokens].astype(np.float32).mean(axis=0) if tokens else np.zeros(self._rows.shape[1])
            length = float(np.linalg.norm(mean))
            found.append([round(float(number), _DIGITS) for number in (mean / length if length else mean)])
        return found, count


@functools.cache
def embedder() -> StaticEmbedder:
    """Returns the embedder of this process. Raises: OSError, as `StaticEmbedder` does."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the package `{_PACKAGE}` is not installed")
    return StaticEmbedder(Path(found.origin).parent)


def similarities(of: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
    """Returns the cosine similarity of one vector with each of the others, clamped to 0 to 1."""
    return [round(min(1.0, max(0.0, sum(a * b for a, b in zip(of, one, strict=True)))), _DIGITS) for one in others]
