"""Calls of models: the tools `infer`, `classify` and `embed`.

`tools.py` defines them, `metering.py` says what a call may cost. `calls.py` makes the calls, over `exchange.py`, in the shape of
the provider (`openai.py`, `anthropic.py`, `google.py`). What a model answers is data: it is checked against its provider's shape
and the call's schema, and gives no rights.
"""

from __future__ import annotations

from typing import Final

MODEL_TOOLS: Final = ("infer", "classify", "embed")
