"""Importing the brain metastasis system: a ResNet-50 for slices of head CT.

References: "Model Architecture", the system's own document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inference.errors import ModelInvalid
from inference.importing.anatomy import BRAIN
from inference.store.architectures import MetastasisArchitecture
from inference.store.card_parts import CardLabel, Thresholds, VolumePreprocessing
from inference.store.draft import Draft

if TYPE_CHECKING:
    from torch import Tensor


def is_metastasis(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of the brain metastasis system's slice network."""
    return "classifier.3.weight" in tensors and "backbone.0.weight" in tensors


TYPICAL_THRESHOLD = 0.25
"""Middle of the range of optimal thresholds that "Model Architecture" calls typical, 0.15 to 0.35."""


def metastasis_model(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Draft:
    """The slice network of the brain metastasis system.

    Tensors that the checkpoint holds twice are taken once. A first convolution for three channels is averaged into
    one for one channel. The threshold is the checkpoint's ``optimal_threshold``, else ``TYPICAL_THRESHOLD``. The
    system resizes slices as OpenCV's ``INTER_LINEAR`` does.

    Raises:
        ModelInvalid: the checkpoint's threshold is no probability.
    """
    threshold = facts.get("optimal_threshold", TYPICAL_THRESHOLD)
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        raise ModelInvalid(f"the checkpoint's optimal_threshold is {threshold!r}, no probability.")
    network = {n: t for n, t in tensors.items() if n.startswith(("backbone.", "classifier."))}
    first = network["backbone.0.weight"]
    if first.shape[1] == 3:
        network["backbone.0.weight"] = first.mean(dim=1, keepdim=True)
    return Draft(
        tensors=network,
        kind="brain_metastasis",
        version="1",
        manufacturer="unknown",
        licence="unknown",
        input_size=256,
        input_channels=1,
        architecture=MetastasisArchitecture(),
        labels=(
            CardLabel(
                name="Brain metastasis",
                site=BRAIN,
                thresholds=Thresholds(low=threshold / 2, high=threshold, critical=max(0.75, threshold)),
            ),
        ),
        more={"volume": VolumePreprocessing(low=0, high=80, normalisation="zscore", resize="linear")},
    )
