"""What the bundled demonstration models expect of an input, computed of phantoms like those they were trained on.

Usage: python -m training.expectations

Writes the ``expects`` of their cards in place, in a minute; the training scripts write the same.
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


def of_chests() -> Expectations:
    """Of drawn chest radiographs."""
    pictures = (chest_phantom(seed, CHEST_SIZE).picture for seed in range(CHESTS))
    return with_learned_ranges(CHEST_RADIOGRAPH, [measures_of_picture(picture) for picture in pictures])


def of_heads() -> Expectations:
    """Of drawn heads, as finely drawn as those of training and coarser, since both are analysed."""
    volumes = (head_phantom(seed, size=256 if seed % 2 else 128).values for seed in range(HEADS))
    return with_learned_ranges(HEAD_CT, [measures_of_hounsfield(values) for values in volumes])


def of_lungs() -> Expectations:
    """Of drawn lungs, whole blocks on the grid of the network."""
    volumes = (lung_phantom(seed).values for seed in range(LUNGS))
    return with_learned_ranges(CHEST_CT, [measures_of_hounsfield(np.rint(values)) for values in volumes])


BY_KIND: dict[str, Callable[[], Expectations]] = {
    "brain_metastasis": of_heads,
    "chest_xray": of_chests,
    "hybrid_volume": of_heads,
    "lung_nodule": of_lungs,
}


def main() -> None:
    """Write them into the cards."""
    for kind, expected in BY_KIND.items():
        file = FOLDER / kind / "card.json"
        card = json.loads(file.read_text())
        card["expects"] = expected().model_dump(mode="json")
        file.write_text(json.dumps(card, indent=2) + "\n")
        print(file)


if __name__ == "__main__":
    main()
