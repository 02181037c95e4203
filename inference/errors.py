"""Errors of the inference room; each message is one sentence that says what to do.

InferenceError
├── EngineUnknown         no engine of that kind is built in or installed
├── EngineMisconfigured   an ``[[engine]]`` setting that this engine or machine cannot honour
├── ImageUnreadable       one image cannot be decoded or is not what the engine takes
└── ModelError            anything about a model in the store
    ├── ModelAbsent       the model is not in the store: jobs wait until it is
    ├── ModelInvalid      the model's files do not fit their card or the engine
    └── ModelUntrusted    the file would have to be unpickled, which was not allowed
"""

from __future__ import annotations


class InferenceError(Exception):
    """Something about models, engines or images that a person has to act on."""


class EngineUnknown(InferenceError):
    """No engine of that kind is built in or installed."""


class EngineMisconfigured(InferenceError):
    """An engine's settings ask for something that this engine or this machine does not have."""


class ImageUnreadable(InferenceError):
    """The image cannot be analysed; the message is the reason that an operator reads."""


class ModelError(InferenceError):
    """Something is wrong with a model of the store."""


class ModelAbsent(ModelError):
    """The model is not in the store; fetch it with ``overread models pull`` or ``import``."""


class ModelInvalid(ModelError):
    """The model's files do not fit their card, their digest or the engine that loads them."""


class ModelUntrusted(ModelError):
    """The file has to be unpickled, which runs code from it; allow that with ``--trust``."""


class DeviceLost(Exception):
    """The device answers no more in this process; only a new process can use it again."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of an engine says that memory ran out, on the device or here."""
    said = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in said or "alloc_failed" in said:
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)
