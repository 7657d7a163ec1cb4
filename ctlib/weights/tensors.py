"""Files of tensors: safetensors with a header and a digest, and torch files, of which only plain values are loaded."""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from ctlib import files

HEADER = "ctlib"  # the entry of the metadata; one alone, as several are written in any order
_OLDER_HEADER = "made"  # of the weights of Still Shapes that ship with the package, without a digest
# What a NumPy number needs to be read. Training scripts keep their best accuracy as one.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS = [_SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype]
_NUMPY_NUMBERS += [type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?")]


def save(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, object]) -> None:
    """Write tensors, a header that JSON can hold, and a digest of both; after an error the file is as it was."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {HEADER: json.dumps({**header, "digest": _digest(tensors, header)}, sort_keys=True)}
    content = safetensors.torch.save(tensors, metadata)
    files.write_atomically(path, lambda partial: partial.write_bytes(content))


def halved(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with weights in float16. Vectors stay: they are small, and a variance may lie outside its range."""
    return {name: value.half() if value.ndim > 1 else value for name, value in tensors.items()}


def load(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """The header and the tensors, on the CPU, of a file that `save` wrote.

    Raises:
        ValueError: what is wrong with the file; the message is one line and does not name it.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata.get(HEADER) or metadata.get(_OLDER_HEADER) or "null")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, as it is no dict
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: {files.one_line(error)}") from None
    if not isinstance(header, dict):
        raise ValueError(f"has no header of this package (the entry {HEADER!r} of its metadata)")
    digest = header.pop("digest", None)
    if HEADER in metadata and digest != _digest(tensors, header):
        raise ValueError("is damaged: its content is not what its digest says")
    return header, tensors


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of those that hold NaN or infinite values."""
    return [name for name, value in tensors.items() if not value.isfinite().all()]


def _digest(tensors: Mapping[str, torch.Tensor], header: Mapping[str, object]) -> str:
    """SHA-256 of the header and of each tensor's name, type, shape and values."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_torch(path: Path):
    """The tensors and plain values of a torch file, on the CPU; nothing else is loaded.

    Raises:
        ValueError: it holds something else or is damaged; the message is one line and does not name the file.
    """
    try:
        if zipfile.is_zipfile(path):  # else one of torch before 1.6
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():  # which torch does not compare
                    raise ValueError(f"the checksum of its part {damaged} differs")
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what damaged bytes raise is up to the reader
        other = re.search(r"GLOBAL ([\w.]+)", str(error))
        specific = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        reason = f"it holds a {other[1]}" if other else specific[1] if specific else str(error) or type(error).__name__
        raise ValueError(files.one_line(reason)) from error
