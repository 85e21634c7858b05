"""The configuration: found, decoded, merged with environment and flags, and trusted.

Exported names are imported on first use, because commands that only inspect past runs do not read the settings.
"""

from typing import TYPE_CHECKING

from interlock.lazy import lazy_exports

if TYPE_CHECKING:
    from interlock.settings.last_trusted import load_last_trusted
    from interlock.settings.load import Gathered, Loaded, gather, load_table
    from interlock.settings.project_file import find
    from interlock.settings.sections import Settings, Unavailable
    from interlock.settings.trust import Change, SourceFile, TrustStore
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "Change": "trust",
            "Gathered": "load",
            "Loaded": "load",
            "Settings": "sections",
            "SourceFile": "trust",
            "TrustStore": "trust",
            "Unavailable": "sections",
            "find": "project_file",
            "gather": "load",
            "load_last_trusted": "last_trusted",
            "load_table": "load",
        },
    )

__all__ = [
    "Change",
    "Gathered",
    "Loaded",
    "Settings",
    "SourceFile",
    "TrustStore",
    "Unavailable",
    "find",
    "gather",
    "load_last_trusted",
    "load_table",
]
