"""Any MONAI bundle: its own preprocessing, network, inferer and postprocessing, applied to a series.

The bundle gets the volume as a NIfTI file on the series' regular grid, because NIfTI is what bundles load.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.engines.options import BundleOptions
from inference.engines.volume import VolumeEngine
from inference.engines.volume_case import VolumeCase, VolumeOutput
from inference.errors import EngineMisconfigured, ModelInvalid, ModelUntrusted, is_out_of_memory
from inference.findings import Analysis, Finding
from inference.running.calibration import ACTIVATIONS, SMALLEST, calibrate, logit, sigmoid, softmax
from inference.settings import EngineOptions
from inference.volumes.resampling import regular_grid, to_grid
from inference.volumes.segmentation import labelled_segmentation
from inference.volumes.volume import Grid, Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inference.store import StoredModel
    from inference.store.architectures import BundleArchitecture

log = logging.getLogger("overread.inference")

AIR_HU = -1024.0
PHANTOM_SHAPE = (48, 64, 64)
"""Shape of the phantom, in voxels of 1 mm, with which a reduced precision is checked."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class MonaiBundleEngine(VolumeEngine):
    """CT and MR; the card says whether the bundle segments or classifies."""

    kind: ClassVar[str] = "monai_bundle"
    modalities: ClassVar[tuple[str, ...]] = ("CT", "MR")
    options: ClassVar[type[EngineOptions]] = BundleOptions

    @classmethod
    def build(cls, stored: StoredModel) -> nn.Module:
        """The network of the bundle with its weights, and the configuration as its ``bundle_config``.

        Raises:
            ModelInvalid: the card is not for a bundle, or the bundle has no configuration or wrong weights.
            ModelUntrusted: the configuration would run code that the card does not allow.
        """
        from monai.bundle.config_parser import ConfigParser  # loads torch

        from inference.networks.weights import with_weights
        from inference.store.architectures import BundleArchitecture
        from inference.store.bundles import BUNDLE_CONFIGS, foreign_code, without_writers

        card = stored.card
        if not isinstance(card.architecture, BundleArchitecture):
            raise ModelInvalid(f"model {card.name!r} is not a MONAI bundle.")
        name = next((n for n in BUNDLE_CONFIGS if n in card.files), None)
        if name is None:
            raise ModelInvalid(f"model {card.name!r} has no inference configuration.")
        config = without_writers(ConfigParser.load_config_file(str(stored.weights.parent / name)))
        foreign = next(foreign_code(config), None)
        if foreign is not None and not card.architecture.code_allowed:
            raise ModelUntrusted(
                f"the configuration of model {card.name!r} runs code that its card does not allow."
            )
        parser = ConfigParser()
        parser.read_config(config)
        network = cast("nn.Module", parser.get_parsed_content("network_def", instantiate=True))
        with_weights(network, stored)
        network.bundle_config = config  # type: ignore[assignment]
        return network

    @property
    def replaced_entries(self) -> Mapping[str, Any]:
        """The entries of the bundle's configuration that the settings replace."""
        return self.settings.checked(BundleOptions).bundle

    @property
    def bundle(self) -> BundleArchitecture:
        """The card's architecture by its own type."""
        return cast("BundleArchitecture", self.card.architecture)

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Put the slices on a regular grid; refuse modalities that the card does not name."""
        modality = volume.frames[0].trait("Modality")
        if self.card.modalities and modality not in self.card.modalities:
            return f"the model is for {' or '.join(self.card.modalities)}, not for {modality}"
        grid = regular_grid(volume)
        outside = AIR_HU if modality == "CT" else float(volume.values.min())
        return VolumeCase(volume=volume, inputs=to_grid(volume, grid, outside=outside), prepared=grid)

    def phantom_probabilities(self) -> list[NDArray[np.floating]]:
        """The probabilities of every class for a phantom of a lung, without the bundle's postprocessing."""
        from inference.demo.volume_phantoms import lung_phantom

        values = lung_phantom(0, PHANTOM_SHAPE, nodules=2).values
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data, _ = self._network_output(values, Grid(affine=np.eye(4), shape=PHANTOM_SHAPE))
        logits = data["pred"].numpy()
        return [softmax(np.moveaxis(logits, 0, -1)) if len(logits) > 1 else sigmoid(logits)]

    def run_volume(self, case: VolumeCase) -> NDArray[np.generic]:
        """Run the bundle's own steps.

        Returns:
            The label map on the volume's grid, or the values of the labels, shape (labels,).
        """
        grid = cast("Grid", case.prepared)
        with warnings.catch_warnings():
            # MONAI's warnings are for the bundle's author: defaults that will change, readers not installed.
            warnings.simplefilter("ignore")
            prediction = self._run_bundle(case.network_inputs, grid)
        if self.bundle.output == "segmentation":
            return _label_map(prediction, grid)
        return prediction.ravel().astype(np.float64)

    def conclude_volume(self, case: VolumeCase, output: VolumeOutput) -> Analysis:
        """Make a segmentation or findings of the bundle's result."""
        if self.bundle.output == "segmentation":
            grid = cast("Grid", case.prepared)
            segmentation = labelled_segmentation(
                output.values, grid, case.volume.frames, self.card.structures
            )
            return self.analysis(case, output, [], segmentation=segmentation)
        logits, probabilities = self._logits_and_probabilities(output.values)
        calibrated = calibrate(
            self.card.calibration, logits[None], probabilities[None], self.card.activation
        )[0]
        return self.analysis(
            case,
            output,
            [
                Finding(
                    label=label,
                    logit=float(logits[column]),
                    probability=float(probabilities[column]),
                    calibrated_probability=float(calibrated[column]),
                )
                for column, label in self.reported.items()
            ],
            absence=self.card.absence(logits, probabilities, calibrated),
            exclusive=self.card.activation == "softmax",
        )

    def _logits_and_probabilities(
        self, values: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The logits and probabilities of the labels, from a bundle's result, which may be either.

        Raises:
            EngineMisconfigured: the bundle gave another number of values than the card has labels.
        """
        if len(values) != len(self.card.labels):
            raise EngineMisconfigured(
                f"engine {self.settings.name!r}: the bundle gave {len(values)} values "
                f"for {len(self.card.labels)} labels."
            )
        if values.min() < 0 or values.max() > 1:
            values = ACTIVATIONS[self.card.activation](values)
        if self.card.activation == "softmax":  # the logarithms are its logits up to a constant
            return np.log(np.maximum(values, SMALLEST)), values
        return logit(values), values

    def _run_bundle(self, values: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
        """The result of all the bundle's steps for a volume."""
        data, postprocessing = self._network_output(values, grid)
        return np.asarray(postprocessing(data)["pred"], dtype=np.float32)

    def _network_output(self, values: NDArray[np.float32], grid: Grid) -> tuple[dict[str, Any], Any]:
        """The bundle's data with the network's output as ``pred``, and the bundle's postprocessing."""
        import nibabel
        import torch
        from monai.bundle.config_parser import ConfigParser

        config = dict(cast("Any", self.network).bundle_config)
        parser = ConfigParser()
        parser.read_config(
            {**config, **self.replaced_entries, "device": f"$torch.device('{self.placement.device}')"}
        )
        parser["network_def"] = self.network
        parser["network"] = self.network
        preprocessing = parser.get_parsed_content("preprocessing", instantiate=True)
        inferer = parser.get_parsed_content("inferer", instantiate=True)
        postprocessing = parser.get_parsed_content("postprocessing", instantiate=True)
        with tempfile.TemporaryDirectory(prefix="overread-") as folder:
            file = Path(folder) / "image.nii"
            nibabel.save(nifti(values, grid), file)
            data = preprocessing({"image": str(file)})
        with torch.inference_mode(), self.placement.autocast():
            output = self.run_inferer(inferer, data["image"][None])
        data["pred"] = output[0].float().cpu()
        return data, postprocessing

    def run_inferer(self, inferer: Any, image: Tensor) -> Tensor:
        """Run a bundle's inferer on an image of shape (1, channels, x, y, z).

        If the device has too little memory for the maps of the whole volume, they are assembled on the CPU, and
        the windows go to the device one at a time.

        Raises:
            RuntimeError: memory is too short for that too, or the inferer does not use windows.
        """
        import torch
        from monai.inferers.inferer import SlidingWindowInferer

        try:
            return cast("Tensor", inferer(image.to(self.placement.device), self.network))
        except RuntimeError as error:
            if not isinstance(inferer, SlidingWindowInferer) or not is_out_of_memory(error):
                raise
        log.warning("device_memory_short engine=%s maps=on the CPU", self.settings.name)
        inferer.sw_device, inferer.device = self.placement.device, torch.device("cpu")
        inferer.sw_batch_size, inferer.buffer_steps = 1, None
        return cast("Tensor", inferer(image, self.network))


def nifti(values: NDArray[np.float32], grid: Grid) -> Any:
    """A NIfTI image with axes (x, y, z) in RAS, from an array with axes (slice, row, column)."""
    import nibabel

    return nibabel.Nifti1Image(values.transpose(2, 1, 0), nifti_affine(grid))


def nifti_affine(grid: Grid) -> NDArray[np.float64]:
    """The affine of a NIfTI image, from (column, row, slice, 1) to RAS in mm."""
    columns = grid.affine[:, [2, 1, 0, 3]]
    return np.asarray(_LPS_TO_RAS @ columns)


def _label_map(prediction: NDArray[np.float32], grid: Grid) -> NDArray[np.uint16]:
    """The label map with axes (slice, row, column) of a bundle's prediction.

    Args:
        prediction: shape (channels, x, y, z) with a channel for each class, or one channel that is the label map.
        grid: the grid of the volume that the bundle was given.

    Raises:
        EngineMisconfigured: the prediction is not on that grid.
    """
    labels = prediction.argmax(axis=0) if prediction.shape[0] > 1 else np.rint(prediction[0])
    transposed = labels.astype(np.uint16).transpose(2, 1, 0)
    if transposed.shape != grid.shape:
        raise EngineMisconfigured(
            "the bundle's postprocessing does not put its result back on the grid of the image: "
            f"{transposed.shape}, not {grid.shape}."
        )
    return transposed
