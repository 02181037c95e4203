"""Chest radiographs by concepts and prototypes: a decision whose reasons can be read and added up.

The logit of a disease is a bias plus the sum of weight x similarity over the prototypes of named concepts. The
findings are the diseases and the concepts; the overlays are the concept activation maps. With a region of
interest (option ``roi``) only similarities inside it count. The method is described in "Stage 2: Prototype
Learning - Detailed Explanation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from inference.engines.chest_xray import ChestXrayEngine
from inference.engines.image import ImageCase, ImageOutput
from inference.engines.options import PrototypeOptions
from inference.errors import ModelInvalid
from inference.findings import Analysis, Contribution, Finding, Heatmap, Label, Presence, Reasoning
from inference.images.localization import heatmap_values, region_of
from inference.running.calibration import calibrate, sigmoid
from inference.settings import EngineOptions
from inference.store.architectures import PrototypeArchitecture
from inference.store.pathologies import chest_label

if TYPE_CHECKING:
    from inference.networks.prototypes import PrototypeOutput
    from inference.running.ensembles import Member
    from inference.settings import EngineSettings
    from inference.store import ModelCard

MAP_METHOD = "Concept map"
CONCEPT_PRESENT = 0.5
"""A concept is present if the sigmoid of its map's maximum is above this."""
REASONS_IN_REPORT = 5
"""How many contributions to a disease the report names, the largest first."""


@dataclass(frozen=True, kw_only=True)
class PrototypeResult(ImageOutput):
    """What the network says of one image, with its concepts."""

    concept_maps: NDArray[np.float64] = field(repr=False)
    """In [0, 1], shape (concepts, rows, columns)."""
    similarities: NDArray[np.float32] = field(repr=False)
    """Similarity to each prototype, in [-1, 1], shape (prototypes,)."""


class ConceptPrototypeEngine(ChestXrayEngine):
    """Frontal radiographs of the chest, with the reasons for each decision."""

    kind: ClassVar[str] = "concept_prototype"
    options: ClassVar[type[EngineOptions]] = PrototypeOptions

    def __init__(self, settings: EngineSettings, card: ModelCard, members: Sequence[Member]) -> None:
        super().__init__(settings, card, members)
        if not isinstance(card.architecture, PrototypeArchitecture):
            raise ModelInvalid(f"model {card.name!r} is not a concept prototype network.")
        self._concepts = card.architecture.concepts
        self._per_concept = card.architecture.prototypes_per_concept
        disease_names = {label.name for label in card.labels}
        # A concept may have the name of a disease, and findings are told apart by name.
        self._concept_labels = tuple(
            chest_label(name if name not in disease_names else f"{name} (concept)").as_finding()
            for name in self._concepts
        )
        self._roi = settings.checked(PrototypeOptions).roi
        head: Any = self.members[0].classifier.network.task_head
        self._head_weights: NDArray[np.float32] = head.weight.cpu().numpy()
        self._head_bias: NDArray[np.float32] = head.bias.cpu().numpy()

    def run(self, cases: Sequence[ImageCase]) -> list[ImageOutput]:
        """Run one forward pass for all cases; ``milliseconds`` is each case's share of the time."""
        if not cases:
            return []
        started = perf_counter()
        output = self._forward(cases)
        logits = output.logits.cpu().numpy().astype(np.float64)
        probabilities = sigmoid(logits)
        calibrated = calibrate(self.card.calibration, logits, probabilities, "sigmoid")
        maps = sigmoid(output.cams.cpu().numpy())
        scores = output.similarity_scores.cpu().numpy()
        milliseconds = (perf_counter() - started) * 1000 / len(cases)
        return [
            PrototypeResult(
                logits=logits[row],
                probabilities=probabilities[row],
                calibrated=calibrated[row],
                individual=calibrated[None, row],
                deviation=np.zeros_like(calibrated[row]),
                maps={},
                milliseconds=milliseconds,
                concept_maps=maps[row],
                similarities=scores[row],
            )
            for row in range(len(cases))
        ]

    def _forward(self, cases: Sequence[ImageCase]) -> PrototypeOutput:
        import torch

        from inference.networks.prototypes import PrototypeNetwork

        classifier = self.members[0].classifier
        network = classifier.network
        assert isinstance(network, PrototypeNetwork)
        (form,) = self._forms
        images = np.stack([case.inputs[form] for case in cases])
        features = classifier.classify(images).feature_maps
        importance: Any = None
        if self._roi is not None:
            masks = [_region_mask(case, self._roi, self.card.input_size) for case in cases]
            importance = torch.from_numpy(np.stack(masks)[:, None]).to(features.device)
        with torch.no_grad():
            return network.explain(features, importance)

    def conclude(self, case: ImageCase, output: ImageOutput) -> Analysis:
        """The findings on diseases and concepts, with the reasons for each disease."""
        assert isinstance(output, PrototypeResult)
        logits, probabilities, calibrated = output.logits, output.probabilities, output.calibrated
        maps = output.concept_maps
        diseases = tuple(
            Finding(
                label=label,
                logit=float(logits[index]),
                probability=float(probabilities[index]),
                calibrated_probability=float(calibrated[index]),
            )
            for index, label in zip(self.card.reported, self._labels, strict=True)
        )
        concept_scores = maps.max(axis=(1, 2))
        shown_concepts = set(np.flatnonzero(concept_scores > CONCEPT_PRESENT).tolist()) or {
            int(concept_scores.argmax())
        }
        concepts = tuple(
            self._concept_finding(
                case, label, float(concept_scores[index]), maps[index] if index in shown_concepts else None
            )
            for index, label in enumerate(self._concept_labels)
        )
        reasoning = tuple(self._reasoning_of(index, output.similarities) for index in self.card.reported)
        remarks = tuple(
            _reasoning_sentence(reasons)
            for reasons, finding in zip(reasoning, diseases, strict=True)
            if finding.presence is not Presence.ABSENT
        )
        return Analysis(
            source=case.source,
            model=self.model,
            findings=diseases + concepts,
            absence=self.card.absence(logits, probabilities, calibrated),
            picture=case.picture,
            device=self.device,
            inference_time_ms=output.milliseconds,
            review_advised=case.review_advised,
            disclaimer=self.card.disclaimer,
            remarks=remarks,
            reasoning=reasoning,
        )

    def _concept_finding(
        self, case: ImageCase, label: Label, score: float, concept_map: NDArray[np.float64] | None
    ) -> Finding:
        heatmap, region = None, None
        if concept_map is not None:
            small = concept_map.astype(np.float32)
            shape = (case.source.rows, case.source.columns)
            heatmap = Heatmap(
                values=heatmap_values(small, case.seen, shape, case.picture.shape), method=MAP_METHOD
            )
            if score > CONCEPT_PRESENT:
                region = region_of(small, case.seen)
        return Finding(
            label=label,
            logit=float(np.log(score) - np.log1p(-score)) if 0 < score < 1 else 0.0,
            probability=score,
            calibrated_probability=score,
            heatmap=heatmap,
            regions=() if region is None else (region,),
        )

    def _reasoning_of(self, output: int, scores: NDArray[np.float32]) -> Reasoning:
        return Reasoning(
            label=self.card.labels[output].name,
            bias=float(self._head_bias[output]),
            contributions=tuple(
                Contribution(
                    concept=self._concepts[index // self._per_concept],
                    prototype=1 + index % self._per_concept,
                    weight=float(self._head_weights[output, index]),
                    similarity=float(scores[index]),
                )
                for index in range(len(scores))
            ),
        )

    def _warm_up(self) -> None:
        (form,) = self._forms
        blank = np.zeros((1, form.channels, form.size, form.size), dtype=np.float32)
        self.members[0].classifier.classify(blank)


def _region_mask(case: ImageCase, roi: tuple[int, int, int, int], size: int) -> NDArray[np.float32]:
    """Mask of shape (size, size): 1 inside the region (x, y, width, height in pixels of the source), 0 outside."""
    x, y, width, height = roi
    across, down = size / case.source.columns, size / case.source.rows
    mask = np.zeros((size, size), dtype=np.float32)
    top, left = int(y * down), int(x * across)
    bottom, right = int(np.ceil((y + height) * down)), int(np.ceil((x + width) * across))
    mask[top:bottom, left:right] = 1.0
    return mask


def _reasoning_sentence(reasoning: Reasoning) -> str:
    """A disease's logit, bias and largest contributions as one sentence of the report."""
    largest = sorted(reasoning.contributions, key=lambda c: -abs(c.amount))[:REASONS_IN_REPORT]
    parts = [
        f"{c.concept} #{c.prototype} {c.weight:+.2f} x {c.similarity:.2f} = {c.amount:+.2f}" for c in largest
    ]
    return (
        f"{reasoning.label}: logit {reasoning.logit:+.2f} from bias {reasoning.bias:+.2f}; {'; '.join(parts)}"
    )
