"""Connects capsules with the gate: which capsules a project has, and what their calls may do.

| file | holds |
|---|---|
| `attach.py` | the configured capsules, their tools, and why some are not offered |
| `rights.py` | what the host functions of a call may reach: the caller's rights |
| `inner_call.py` | a tool that calls another tool |
"""
