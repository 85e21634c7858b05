"""Calls of models: the tools `infer`, `classify` and `embed`.

`tools.py` defines them, and `metering.py` computes what a call may cost. `calls.py` makes the calls, over
`exchange.py`, in the format of the provider (`openai.py`, `anthropic.py`, `google.py`). A model's answer is data: it is
checked against the provider's format and the call's schema, and grants no rights.
"""

from __future__ import annotations

from typing import Final

MODEL_TOOLS: Final = ("infer", "classify", "embed")
