"""The measures of an input that a card can limit, and how each is shown to people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a measure is shown to people; ``digits`` counts those after the point."""

    words: str
    unit: str = ""
    digits: int = 1
    percent: bool = False

    def shown(self, value: float) -> str:
        """A value as text with its unit."""
        number = f"{100 * value if self.percent else value:.{self.digits}f}"
        return f"{number} %" if self.percent else f"{number} {self.unit}".strip()


MEASURES: dict[str, Measure] = {
    "pixel_spacing_mm": Measure(words="distance of the pixels", unit="mm", digits=2),
    "slice_spacing_mm": Measure(words="distance of the slices", unit="mm", digits=2),
    "field_of_view_mm": Measure(words="shorter side of the slices", unit="mm", digits=0),
    "coverage_mm": Measure(words="distance from the first to the last slice", unit="mm", digits=0),
    "slices": Measure(words="number of slices", digits=0),
    "body": Measure(words="share of the picture that is denser than air", percent=True),
    "air": Measure(words="share of air in the box around the body", percent=True),
    "bone": Measure(words="share of bone (300 HU and more) in the body", percent=True),
    "metal": Measure(words="share of metal (3000 HU and more) in the body", percent=True, digits=2),
    "soft_tissue": Measure(words="share of soft tissue (-20 to 100 HU) in the body", percent=True),
    "lung": Measure(words="share of lung (-950 to -500 HU) in the box around the body", percent=True),
    "tissue_hu": Measure(words="median of the soft tissue", unit="HU"),
    "structure_hu": Measure(words="spread of the soft tissue without its noise", unit="HU"),
    "noise_hu": Measure(words="noise of the soft tissue", unit="HU"),
    "brightness": Measure(words="mean brightness of the picture", percent=True),
    "contrast": Measure(words="standard deviation of the picture's brightness", percent=True),
    "darkest": Measure(words="5th percentile of the picture's brightness", percent=True),
    "brightest": Measure(words="95th percentile of the picture's brightness", percent=True),
    "detail": Measure(words="mean step of brightness between neighbouring points", percent=True, digits=2),
    "entropy_bits": Measure(words="entropy of the picture's greys", unit="bits", digits=2),
    "symmetry": Measure(words="correlation of the picture with its mirror image", digits=2),
}
"""Every measure by its name in a card. Volumes have the lengths and ``slices``; CT also has ``body`` to ``noise_hu``.
Single images have the measures from ``brightness`` on."""
