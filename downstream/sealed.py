"""Secrets on their way from the desk to a worker, sealed so that nobody between can read them.

HPKE (RFC 9180; X25519, HKDF-SHA256, AES-256-GCM): sealing takes only the public key. What is
sealed is bound to its purpose, the job's key and action: pasted into another job it does not
open. A sealed text is `<key id>.<base64>`; it names its key, so keys can be changed while
jobs wait: the last key of the file seals, all of them open.

The keyring is one file beside the database, made at the first start, readable by its owner only.
A copy of the database without it, a backup say, gives no secret away.

Kept out: which fields are secret (`adapter.py`), when a sealed text is erased (`work/line.py`).
"""

import base64
import binascii
import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from queue_backend.errors import BadInput, Unsupported

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

# Lengths are rounded up to this, so that a sealed text does not tell how long a password is.
PADDED_TO_BYTES = 256


def purpose(key: str, action: str) -> str:
    """What a sealed text is for: one job, one action. The desk and the worker say the same."""
    return json.dumps([key, action])


class Keyring:
    """Seals with its newest key, opens with all it has."""

    def __init__(self, keys: list[X25519PrivateKey]) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self._newest_id = _key_id(keys[-1])

    @classmethod
    def at(cls, path: Path) -> "Keyring":
        """The keyring in the file `path`, made now if there is none.

        Of several processes that start together one makes it, and all read the same. Raises
        Unsupported if others than the owner may read it, or if it does not read as a keyring.
        """
        if not path.exists():
            _make(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise Unsupported(f"{path} may be read by others than its owner: chmod 600 it")
        try:
            kept = json.loads(path.read_text())["keys"]
            keys = [X25519PrivateKey.from_private_bytes(base64.b64decode(key)) for key in kept]
            return cls(keys)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Unsupported(f"{path} does not read as a keyring") from error

    def seal(self, fields: Mapping[str, str], info: str) -> str:
        """`fields` for the worker's eyes only, to be opened with the same `info`."""
        text = json.dumps(dict(fields)).encode()
        padded = text.ljust(-(-len(text) // PADDED_TO_BYTES) * PADDED_TO_BYTES)
        public_key = self._keys[self._newest_id].public_key()
        sealed = _SUITE.encrypt(padded, public_key, info.encode())
        return f"{self._newest_id}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, text: str, info: str) -> dict[str, str]:
        """What was sealed. Raises BadInput: `sealed-unreadable` when the key is gone, the text
        was changed, or it was sealed for another purpose."""
        key_id, _, sealed = text.partition(".")
        try:
            opened = _SUITE.decrypt(
                base64.urlsafe_b64decode(sealed), self._keys[key_id], info.encode()
            )
        except (KeyError, InvalidTag, binascii.Error, ValueError) as error:
            raise BadInput("sealed-unreadable") from error
        return {str(name): str(value) for name, value in json.loads(opened).items()}


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    key = base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()
    # Written apart (mkstemp: 0600) and then linked: nobody ever sees half a keyring, and whoever
    # comes second finds the first one's in place.
    descriptor, apart = tempfile.mkstemp(dir=path.parent, prefix=".keyring-")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump({"keys": [key]}, file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(apart, path)
    finally:
        os.unlink(apart)


def _key_id(key: X25519PrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:8]
