"""Zip archives of tensors, looked at before they are loaded: whole, and no larger than they look.

``torch.load`` and ``torch.export.load`` compare no checksums, and take the sizes that a file
declares on trust. Here a damaged or hostile file is refused while nothing of it is in memory.
"""

from __future__ import annotations

import collections
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

import torch

MOST_TIMES = 10
"""What a file declares may take this many times its own size."""

_END = struct.Struct("<4s16xH")  # the last record of an archive, without a comment

# Those that torch's own unpickler takes.
_OPCODES = (
    pickle.APPEND, pickle.APPENDS, pickle.BINFLOAT, pickle.BINGET, pickle.BININT, pickle.BININT1,
    pickle.BININT2, pickle.BINPERSID, pickle.BINPUT, pickle.BINUNICODE, pickle.BUILD,
    pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_SET, pickle.EMPTY_TUPLE, pickle.GLOBAL,
    pickle.LONG1, pickle.LONG_BINGET, pickle.LONG_BINPUT, pickle.MARK, pickle.NEWFALSE,
    pickle.NEWOBJ, pickle.NEWTRUE, pickle.NONE, pickle.PROTO, pickle.REDUCE, pickle.SETITEM,
    pickle.SETITEMS, pickle.SHORT_BINSTRING, pickle.STOP, pickle.TUPLE, pickle.TUPLE1,
    pickle.TUPLE2, pickle.TUPLE3,
)  # fmt: skip
_CONTAINERS = (
    pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.EMPTY_SET, pickle.TUPLE, pickle.TUPLE1,
    pickle.TUPLE2, pickle.TUPLE3,
)  # fmt: skip
_CONTAINER_BYTES = 64
# Of these the arguments are tensors, whose sizes are counted; the results are not needed.
_OF_TENSORS = (
    "_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_sparse_tensor",
)  # fmt: skip
_OF_STORAGES = ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")


def check_entries(file: str | os.PathLike[str] | BinaryIO) -> dict[str, int]:
    """Return the bytes of each entry of an archive, after comparing all checksums.

    Args:
        file: The archive, which is not unpacked into memory.

    Raises:
        zipfile.BadZipFile: If an entry is damaged, there twice, or if together they are larger
            than the file, which no archive of torch is: its entries are not compressed. Also if
            there is something before the archive or behind it.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        sizes = {entry.filename: entry.file_size for entry in entries}
        # torch finds names by lower case.
        if len({name.lower() for name in sizes}) < len(entries):
            raise zipfile.BadZipFile("two entries of one name")
        whole = archive.fp.seek(0, os.SEEK_END) if archive.fp else 0
        if not _is_alone(archive, whole):
            raise zipfile.BadZipFile("bytes before or behind the archive")
        if sum(sizes.values()) > whole:
            raise zipfile.BadZipFile(
                f"entries of {sum(sizes.values()):,} bytes in a file of {whole:,}"
            )
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    return sizes


def _is_alone(archive: zipfile.ZipFile, whole: int) -> bool:
    """Return whether a file of ``whole`` bytes begins and ends with its archive."""
    first = min((entry.header_offset for entry in archive.infolist()), default=0)
    if archive.fp is None or whole < _END.size or first:
        return False
    archive.fp.seek(whole - _END.size)
    signature, length_of_comment = _END.unpack(archive.fp.read(_END.size))
    return signature == b"PK\x05\x06" and length_of_comment == 0


def check_tensors(file: str | os.PathLike[str] | BinaryIO) -> None:
    """Check what ``torch.save`` wrote, by following its pickle without making anything.

    Args:
        file: The archive.

    Raises:
        zipfile.BadZipFile: As ``check_entries``.
            Also if a tensor is larger than its bytes, or all are larger than ``MOST_TIMES`` the
            file.
        pickle.UnpicklingError: If something in it is neither a tensor nor a plain value.
    """
    sizes = check_entries(file)
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in sizes if name.rpartition("/")[2] == "data.pkl"]
        folder = name.removesuffix("data.pkl") + "data/"
        stored = {n.removeprefix(folder): s for n, s in sizes.items() if n.startswith(folder)}
        with archive.open(name) as content:
            try:
                _Outline(content, stored, MOST_TIMES * sum(sizes.values())).load()
            except (pickle.UnpicklingError, zipfile.BadZipFile, MemoryError):
                raise
            except Exception as error:  # whatever comes of opcodes in a wrong order
                raise zipfile.BadZipFile("a pickle of something else") from error


class _Inert:
    """What stands for a tensor, or for a function of tensors."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Storage(_Inert):
    def __init__(self, nbytes: int, itemsize: int) -> None:
        self.nbytes, self.itemsize = nbytes, itemsize


class _StorageType:
    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize


class _Outline(pickle._Unpickler):
    # The one in C allocates what a pickle names, before it reads it.
    dispatch: ClassVar[dict[int, Any]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES
    }

    def __init__(self, file: Any, stored: Mapping[str, int], limit: int) -> None:
        super().__init__(file)
        self._stored = stored
        self._left = limit

    def _take(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise zipfile.BadZipFile("a small file of large things")

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # as protocol 2 calls it
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch", "Size"): tuple,
            ("torch", "Tensor"): "torch.Tensor",  # which may be named, but not called
            ("torch._tensor", "_rebuild_from_type_v2"): _call,
            ("torch", "device"): _Inert,
            ("torch.serialization", "_get_layout"): _Inert,
            ("torch.nn.parameter", "Parameter"): _Inert,
            ("builtins", "set"): set,
            ("builtins", "complex"): complex,
            ("_codecs", "encode"): _encode,
            **{("torch._utils", name): _Inert for name in _OF_TENSORS},
            **{("torch._utils", name): self._count for name in _OF_STORAGES},
        }
        if (module, name) in known:
            return known[module, name]
        found: Any = getattr(torch, name, None) if module in ("torch", "torch.storage") else None
        if isinstance(found, torch.dtype):
            return found
        if name == "UntypedStorage":
            return _StorageType(1)
        if isinstance(found, type) and issubclass(found, torch.storage._LegacyStorage):
            dtype: Any = found._dtype  # the public one warns
            return _StorageType(dtype.itemsize)
        by_user: list[Any] = torch.serialization.get_safe_globals()
        names = [c[1] if isinstance(c, tuple) else f"{c.__module__}.{c.__name__}" for c in by_user]
        if f"{module}.{name}" in names:
            return _Inert
        raise pickle.UnpicklingError(f"{module}.{name} in it, which is no tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, count = pid
        nbytes = count * kind.itemsize
        if nbytes != self._stored.get(key):
            raise zipfile.BadZipFile(f"{nbytes:,} bytes declared for {self._stored.get(key)}")
        return _Storage(nbytes, kind.itemsize)

    def _count(self, *arguments: Any) -> _Inert:
        storage, offset, size, stride = arguments[:4]
        dtype = next((a for a in arguments[4:] if isinstance(a, torch.dtype)), None)
        itemsize = storage.itemsize if dtype is None else dtype.itemsize
        steps = [step * (length - 1) for step, length in zip(stride, size, strict=True)]
        last = offset + sum(steps)
        signs = (offset, *size, *stride)
        if min(signs) < 0 or (math.prod(size) and (last + 1) * itemsize > storage.nbytes):
            raise zipfile.BadZipFile(f"a tensor of {size} in {storage.nbytes:,} bytes")
        self._take(math.prod(size) * itemsize)
        return _Inert()


def _counting(make: Callable[[Any], None]) -> Callable[[_Outline], None]:
    def counted(outline: _Outline) -> None:
        outline._take(_CONTAINER_BYTES)
        make(outline)

    return counted


for _code in _CONTAINERS:
    _Outline.dispatch[_code[0]] = _counting(_Outline.dispatch[_code[0]])


def _call(function: Any, kind: object, arguments: Any, state: object) -> Any:
    return function(*arguments)


def _encode(text: str, encoding: str) -> bytes:
    # How bytes stand in a pickle of protocol 2.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"an encoding {encoding!r}")
    return text.encode("latin1")
