"""What the bundled demonstration models expect of an input, computed from phantoms like those of their training.

Usage: python -m training.expectations

Updates ``expects`` in their cards within a minute. The training scripts write the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from inference.checking.expectations import CHEST_CT, CHEST_RADIOGRAPH, HEAD_CT, with_learned_ranges
from inference.checking.measurement import measures_of_hounsfield, measures_of_picture
from inference.demo.phantoms import chest_phantom
from inference.demo.volume_phantoms import head_phantom, lung_phantom
from inference.store.expects import Expectations
from training.demonstration import FOLDER

CHESTS, HEADS, LUNGS = 300, 60, 60
CHEST_SIZE = 224


def chest_expectations() -> Expectations:
    """Expectations of models for drawn chest radiographs."""
    pictures = (chest_phantom(seed, CHEST_SIZE).picture for seed in range(CHESTS))
    return with_learned_ranges(CHEST_RADIOGRAPH, [measures_of_picture(picture) for picture in pictures])


def head_expectations() -> Expectations:
    """Expectations of models for drawn heads, at the resolution of training and a coarser one, as both are analysed."""
    volumes = (head_phantom(seed, size=256 if seed % 2 else 128).values for seed in range(HEADS))
    return with_learned_ranges(HEAD_CT, [measures_of_hounsfield(values) for values in volumes])


def lung_expectations() -> Expectations:
    """Expectations of models for drawn lungs, from whole blocks on the network's grid."""
    volumes = (lung_phantom(seed).values for seed in range(LUNGS))
    return with_learned_ranges(CHEST_CT, [measures_of_hounsfield(np.rint(values)) for values in volumes])


BY_KIND: dict[str, Callable[[], Expectations]] = {
    "brain_metastasis": head_expectations,
    "chest_xray": chest_expectations,
    "hybrid_volume": head_expectations,
    "lung_nodule": lung_expectations,
}


def main() -> None:
    """Write the expectations into the cards."""
    for kind, expected in BY_KIND.items():
        file = FOLDER / kind / "card.json"
        card = json.loads(file.read_text())
        card["expects"] = expected().model_dump(mode="json")
        file.write_text(json.dumps(card, indent=2) + "\n")
        print(file)


if __name__ == "__main__":
    main()
