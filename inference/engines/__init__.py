"""Engine classes by kind: the built-in ones and those that other distributions register.

Another distribution registers its engine class in the entry point group ``overread.engines``, with the engine
kind as the entry point's name.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from inference.errors import EngineUnknown

if TYPE_CHECKING:
    from inference.engine import Engine

ENTRY_POINT_GROUP = "overread.engines"

_BUILT_IN = {
    "chest_xray": ("inference.engines.chest_xray", "ChestXrayEngine"),
    "image_classifier": ("inference.engines.image_classifier", "ImageClassifierEngine"),
    "pneumonia": ("inference.engines.pneumonia", "PneumoniaEngine"),
    "concept_prototype": ("inference.engines.concept_prototype", "ConceptPrototypeEngine"),
    "lung_nodule": ("inference.engines.lung_nodule", "LungNoduleEngine"),
    "brain_metastasis": ("inference.engines.brain_metastasis", "BrainMetastasisEngine"),
    "hybrid_volume": ("inference.engines.hybrid_volume", "HybridVolumeEngine"),
    "ct_chest": ("inference.engines.ct_chest", "CtChestEngine"),
    "nnunet": ("inference.engines.nnunet", "NnunetEngine"),
    "brain_mri": ("inference.engines.brain_mri", "BrainMriEngine"),
    "whole_body_ct": ("inference.engines.whole_body_ct", "WholeBodyCtEngine"),
    "monai_bundle": ("inference.engines.monai_bundle", "MonaiBundleEngine"),
}


def engine_kinds() -> tuple[str, ...]:
    """All engine kinds of this installation: the built-in ones, then the registered ones by name."""
    return (*_BUILT_IN, *registered_kinds())


def registered_kinds() -> tuple[str, ...]:
    """The engine kinds that other distributions register, in alphabetical order."""
    return tuple(sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - _BUILT_IN.keys()))


def engine_class(kind: str) -> type[Engine]:
    """The engine class of a kind; importing it does not load torch.

    Raises:
        EngineUnknown: no engine of that kind is built in or installed.
    """
    if kind in _BUILT_IN:
        module, name = _BUILT_IN[kind]
        built_in: type[Engine] = getattr(import_module(module), name)
        return built_in
    for point in entry_points(group=ENTRY_POINT_GROUP, name=kind):
        registered: type[Engine] = point.load()
        return registered
    known = engine_kinds()
    near = get_close_matches(kind, known, n=1)
    hint = f"did you mean {near[0]!r}" if near else "known kinds are " + ", ".join(known)
    raise EngineUnknown(f"there is no engine kind {kind!r}; {hint}.")
