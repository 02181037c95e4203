"""Pixels to findings. Knows neither network, database nor reports.

The pixels pass through ``reading`` (files, parsed by a separate reader process, ``parsing``), ``images`` and
``volumes``, ``checking`` (is this the right input, is this result possible), ``networks``, ``running`` (devices,
batches, ensembles, explanations, calibration) and ``engines`` (one module for each kind). Beside them, ``store``
keeps models, ``importing`` converts models of other systems, ``offline`` writes the files of the command line,
and ``demo`` has the demonstration models and the synthetic patients that they were trained on.

Other rooms import only the modules in ``PUBLIC``; engines of other distributions may import any module.
"""

PUBLIC = (
    "findings",
    "headers",
    "engine",
    "settings",
    "errors",
    "threads",
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
