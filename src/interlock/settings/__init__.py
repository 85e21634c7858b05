"""Loads the user's configuration: found, decoded, overridden only to tighten, and trusted."""

from interlock.settings.decode import decode
from interlock.settings.last_trusted import load_last_trusted
from interlock.settings.load import Gathered, Loaded, find, gather, load, load_table
from interlock.settings.sections import Settings, Unavailable
from interlock.settings.trust import Change, SourceFile, TrustStore

__all__ = [
    "Change",
    "Gathered",
    "Loaded",
    "Settings",
    "SourceFile",
    "TrustStore",
    "Unavailable",
    "decode",
    "find",
    "gather",
    "load",
    "load_last_trusted",
    "load_table",
]
