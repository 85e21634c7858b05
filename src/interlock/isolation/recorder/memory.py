"""Reads the arguments of a call from the memory of the calling process. Uses only the standard library."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

PATH_BYTES: Final = 4096
_PAGE: Final = 4096
_FIRST_BYTES: Final = 256
"""Most paths are shorter."""
_ARGUMENTS_MAX: Final = 64
_WORD: Final = 8

_read = ctypes.PyDLL(None, use_errno=True).process_vm_readv  # without other threads, the GIL need not be released
_read.restype = ctypes.c_ssize_t
_read.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]
_buffer = ctypes.create_string_buffer(128 * 1024)
_local = (ctypes.c_uint64 * 2)(ctypes.addressof(_buffer), 0)
_remote = (ctypes.c_uint64 * 2)()
_remotes = (ctypes.c_uint64 * (2 * _ARGUMENTS_MAX))()
_string_at = ctypes.string_at
_at, _from, _to = ctypes.addressof(_buffer), ctypes.addressof(_remote), ctypes.addressof(_local)


def read(pid: int, address: int, size: int) -> bytes:
    """Read up to `size` bytes, fewer if the memory ends. Raises: OSError, EFAULT if nothing can be read."""
    _local[1] = _remote[1] = size
    _remote[0] = address
    got = _read(pid, _to, 1, _from, 1, 0)
    if got < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return _string_at(_at, got)


def read_exactly(pid: int, address: int, size: int) -> bytes:
    """Read exactly `size` bytes. Raises: OSError if that is not possible."""
    data = read(pid, address, size)
    if len(data) < size:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data


def read_text(pid: int, address: int, size: int = PATH_BYTES) -> bytes:
    """Read a NUL-terminated text, without the NUL. Raises: OSError; ENAMETOOLONG if there is no NUL within `size` bytes."""
    found = read(pid, address, min(_FIRST_BYTES, _PAGE - (address & (_PAGE - 1))))
    end = found.find(b"\0")
    if end >= 0:
        return found[:end]
    while len(found) < size:
        here = address + len(found)
        found += read_exactly(pid, here, min(_PAGE - (here & (_PAGE - 1)), size - len(found)))
        end = found.find(b"\0")
        if end >= 0:
            return found[:end]
    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def read_argv(pid: int, address: int) -> tuple[list[bytes], bool]:
    """Returns the arguments of a program, and whether some were left out, for example because they cannot be read."""
    found: list[bytes] = []
    try:
        pointers = _pointers(pid, address)
        cut = bool(pointers) and pointers[-1] != 0
        whole = pointers if cut else pointers[:-1]
        for pointer, data in zip(whole, _read_many(pid, whole), strict=True):
            end = data.find(b"\0")
            found.append(data[:end] if end >= 0 else read_text(pid, pointer))
    except OSError:
        return found, True
    return found, cut


def _pointers(pid: int, address: int) -> list[int]:
    """Read pointers up to and including the first 0, or up to the maximum. Raises: OSError."""
    found: list[int] = []
    while address and len(found) < _ARGUMENTS_MAX:
        size = min((_ARGUMENTS_MAX - len(found)) * _WORD, _PAGE - (address & (_PAGE - 1)))
        size = max(_WORD, size - size % _WORD)
        for (pointer,) in struct.iter_unpack("<Q", read_exactly(pid, address, size)):
            found.append(pointer)
            if not pointer:
                return found
        address += size
    return found


def _read_many(pid: int, addresses: list[int]) -> list[bytes]:
    """Read at each address, up to the end of its page and `_FIRST_BYTES`. Returns less where memory cannot be read."""
    sizes = [min(_FIRST_BYTES, _PAGE - (address & (_PAGE - 1))) for address in addresses]
    for number, (address, size) in enumerate(zip(addresses, sizes, strict=True)):
        _remotes[2 * number], _remotes[2 * number + 1] = address, size
    _local[1] = sum(sizes)
    got = _read(pid, _to, 1, ctypes.addressof(_remotes), len(addresses), 0) if addresses else 0
    data = _string_at(_at, max(0, got))
    found, at = [], 0
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    return found
