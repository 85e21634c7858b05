"""Decides whether an agent may touch something (steps 2 and 3). Pure: no clock, no I/O; the time is an argument.

Grant tokens, which need cryptography, are in `capability.tokens`.
"""

from interlock.capability.attenuation import attenuate
from interlock.capability.judge import Capability, compile_grants

__all__ = ["Capability", "attenuate", "compile_grants"]
