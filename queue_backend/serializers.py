"""The serializers: how a Python value becomes bytes on the disk, and a value again; by name.

    json      the default: what everything else can read too. Texts, numbers, lists, dictionaries
              whose keys are texts; a tuple comes back as a list
    msgpack   the same and bytes, in less room; needs the package msgpack
    cbor2     the same and dates, decimals, sets; needs the package cbor2
    pickle    any object of Python. Only who asks for it by name gets it: to unpickle is to run
              what the writer wished, so whoever can write the file rules every program that
              reads it

Bytes that were written by one are read by the same: the name is not kept beside them.
"""

import json
import pickle
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from queue_backend.errors import Unsupported


class Serializer(NamedTuple):
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


def named(name: str) -> Serializer:
    """Raises Unsupported for a name that is none of these, or whose package is missing."""
    if name not in _MAKERS:
        raise Unsupported(f"a serializer is one of {', '.join(_MAKERS)}, not {name!r}")
    return _MAKERS[name]()


def _json() -> Serializer:
    # Sorted, so that equal dictionaries are equal bytes: unique queues go by them.
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
    return Serializer(lambda value: encode(value).encode(), json.loads)


def _msgpack() -> Serializer:
    module = _package("msgpack")
    return Serializer(module.packb, lambda data: module.unpackb(data, strict_map_key=False))


def _cbor2() -> Serializer:
    module = _package("cbor2")
    return Serializer(module.dumps, module.loads)


def _pickle() -> Serializer:
    return Serializer(pickle.dumps, pickle.loads)


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise Unsupported(
            f"the serializer {name} needs a package that is not installed: pip install {name}"
        ) from error


_MAKERS: dict[str, Callable[[], Serializer]] = {
    "json": _json,
    "msgpack": _msgpack,
    "cbor2": _cbor2,
    "pickle": _pickle,
}
