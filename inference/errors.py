"""Errors of the inference room; each message is one sentence for the person who has to act on it.

InferenceError
├── EngineUnknown         no engine of that kind is built in or installed
├── EngineMisconfigured   this engine or machine lacks what an ``[[engine]]`` setting asks for
├── ImageUnreadable       one image cannot be decoded, or the engine does not take it
└── ModelError            something is wrong with a model of the store
    ├── ModelAbsent       the model is not in the store: jobs wait until it is
    ├── ModelInvalid      the model's files do not fit their card or the engine
    └── ModelUntrusted    the model would run code that was not allowed
"""

from __future__ import annotations


class InferenceError(Exception):
    """A problem with a model, an engine or an image that a person has to act on."""


class EngineUnknown(InferenceError):
    """No engine of that kind is built in or installed."""


class EngineMisconfigured(InferenceError):
    """The settings ask for something that this engine or this machine does not have."""


class ImageUnreadable(InferenceError):
    """The image cannot be analysed; the operator reads the message as the reason."""


class ModelError(InferenceError):
    """Something is wrong with a model of the store."""


class ModelAbsent(ModelError):
    """The model is not in the store; fetch it with ``overread models pull`` or ``import``."""


class ModelInvalid(ModelError):
    """The model's files do not match their card, their digest or the engine that loads them."""


class ModelUntrusted(ModelError):
    """Loading or running the model would execute code from its files; ``--trust`` allows it at import."""


class DeviceLost(Exception):
    """The device no longer works in this process; only a new process can use it again."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or its cause, says that device or main memory ran out."""
    message = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in message or "alloc_failed" in message:
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)
