"""Pixels to findings. Knows neither network, database nor reports.

The way of the pixels: ``reading`` (files, by way of the reader process, which is ``parsing``), ``images`` and
``volumes``, ``checking`` (is this the right input, can this be the result), ``networks``, ``running`` (devices,
batches, ensembles, explanations, calibration), ``engines`` (one module for each kind). Beside it ``store`` keeps
models, ``importing`` takes in those of other systems, ``offline`` writes what only the commands for files write,
and ``demo`` has the demonstration models with the drawn patients that they were trained on.

Other rooms import what ``PUBLIC`` names, and engines of other distributions all of it.
"""

PUBLIC = (
    "findings",
    "headers",
    "engine",
    "settings",
    "errors",
    "engines",
    "engines.expected",
    "store",
    "importing.imports",
    "importing.nnunet",
    "importing.torchxrayvision",
    "importing.trial",
    "reading.files",
    "reading.limits",
    "reading.plain",
    "reading.pool",
    "checking.plausibility",
    "running.device",
    "offline.calibration_trial",
    "offline.nodule_files",
    "offline.output",
    "demo.phantoms",
)
