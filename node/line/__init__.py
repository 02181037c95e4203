"""The line of stages through which inputs become results: prepare, run the networks, conclude.

A piece of ``Work`` goes through a ``Line``. Its files are read and prepared, and its results are made, in the stage
processes of a ``pool``, which are forked from a ``template`` (``stage_process``, ``stage_child``, ``transport``; what
they do is in ``tasks``). The networks run in one thread of this process, in batches across pieces of work (``device``).
"""
