"""Installs Interlock's agent shim, then imports the `sitecustomize` that this file hides."""

import importlib.machinery
import importlib.util
import os
import sys


def _warn(error: Exception) -> None:
    sys.stderr.write(f"Interlock: the agent shim does not start: {type(error).__name__}: {error}\n")


try:  # the program must start as it would without the shim
    import interlock_agent_shim  # type: ignore[import-not-found]

    interlock_agent_shim.install(os.environ)
except Exception as broken:
    _warn(broken)


def _import_hidden() -> None:
    """Run the next `sitecustomize` on the path, if there is one, as Python would have done."""
    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_import_hidden()
