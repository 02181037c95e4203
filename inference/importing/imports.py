"""Taking models into the store: what a file or folder holds is recognised, loaded once, and then it is there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import InferenceError, ModelInvalid, ModelUntrusted
from inference.importing import (
    metastasis,
    monai_bundle,
    nnunet,
    pivot,
    pneumonia,
    prototypes,
    torchxrayvision,
)
from inference.importing.checkpoint import unpickle
from inference.importing.download import Progress, download
from inference.importing.torchxrayvision import Normalisation
from inference.importing.trial import refusal_of
from inference.store.card_files import CARD
from inference.store.draft import Draft
from inference.store.store import ModelStore, StoredModel, check_name

if TYPE_CHECKING:
    from torch import Tensor

Names = Mapping[str, Sequence[str]]
"""Names of outputs under ``classes``, and of concepts under ``concepts``."""


def pull_model(store: ModelStore, name: str, progress: Progress | None = None) -> StoredModel:
    """Fetch one of torchxrayvision's published weight sets and convert it.

    Raises:
        ModelAbsent: there is no published weight set of that name.
        InferenceError: the download failed.
        ModelInvalid: what came is no model.
    """
    published = torchxrayvision.published(name)
    with tempfile.TemporaryDirectory(prefix="overread-") as scratch:
        advice = f"`overread models import FILE --name {name} --published {name} --trust`"
        file = download(published.address, Path(scratch) / "weights.pt", advice, progress)
        # The address is the library's own and the file is read in a process of its own.
        tensors, facts = unpickle(file, Path(scratch))
        draft = torchxrayvision.published_model(tensors, facts, published)
        return store.add(draft, name, origin=published.address, trial=refusal_of)


def import_model(
    store: ModelStore,
    file: Path,
    *,
    name: str,
    kind: str | None = None,
    labels: Path | None = None,
    normalisation: Normalisation | None = None,
    published: str | None = None,
    trust: bool = False,
) -> StoredModel:
    """Take a local file, an nnU-Net results folder or a MONAI bundle into the store under a name.

    The model is loaded once before it is there. ``labels`` is a JSON file with the names of the outputs,
    ``{"classes": [...]}``, and of concepts, ``{"concepts": [...]}``, for files that do not name them;
    ``normalisation`` is that of the network's input, where the file does not say it. ``published`` is the weight
    set of torchxrayvision that the file was downloaded as, which says both.

    Raises:
        ModelUntrusted: the file has to be unpickled and ``trust`` is False.
        ModelInvalid: the file is not a model that overread knows, or cannot be loaded.
        ModelAbsent: there is no published weight set of that name.
    """
    check_name(name)
    if file.is_dir():
        return _import_folder(store, file, name, kind=kind, trust=trust)
    if file.suffix == ".safetensors":
        cards = [card for card in (file.with_suffix(".json"), file.with_name(CARD)) if card.exists()]
        if not cards:
            raise ModelInvalid(f"{file} has no card: put {file.with_suffix('.json').name} beside it.")
        return store.add_file(file, cards[0], name, trial=refusal_of)
    _check_trust(file, trust)
    names = _names(labels)
    with tempfile.TemporaryDirectory(prefix="overread-") as scratch:
        tensors, facts = unpickle(file, Path(scratch))
        draft = (
            torchxrayvision.published_model(tensors, facts, torchxrayvision.published(published))
            if published
            else draft_of(tensors, facts, kind=kind, names=names, normalisation=normalisation)
        )
        return store.add(draft, name, origin=file.name, trial=refusal_of)


def _import_folder(
    store: ModelStore, folder: Path, name: str, *, kind: str | None, trust: bool
) -> StoredModel:
    is_nnunet = (folder / "plans.json").is_file()
    if is_nnunet:
        checkpoints = nnunet.checkpoints(folder)
    else:
        monai_bundle.bundle_config(folder)
        checkpoints = sorted((folder / "models").glob("model.pt"))
    if not checkpoints:
        wanted = "fold_0/checkpoint_final.pth" if is_nnunet else "models/model.pt"
        raise ModelInvalid(f"{folder} has no {wanted}.")
    _check_trust(checkpoints[0], trust)
    with tempfile.TemporaryDirectory(prefix="overread-") as scratch:
        read = []
        for number, checkpoint in enumerate(checkpoints):
            place = Path(scratch) / str(number)  # tensors may stay in their file
            place.mkdir()
            read.append(unpickle(checkpoint, place))
        draft = (
            nnunet.nnunet_model(folder, read, kind=kind)
            if is_nnunet
            else monai_bundle.bundle_model(folder, read[0][0], kind=kind, trust=trust)
        )
        return store.add(draft, name, origin=folder.name, trial=refusal_of)


def draft_of(
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
    *,
    kind: str | None,
    names: Names,
    normalisation: Normalisation | None = None,
) -> Draft:
    """The model that a checkpoint holds, recognised by its tensors.

    ``names`` and ``normalisation`` of the network's input are said where the file does not have them.

    Raises:
        ModelInvalid: no engine of this version knows the layout, or not as ``kind``; nobody says the normalisation,
            or it is known and ``normalisation`` says it as well.
    """
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if kind in (None, "chest_xray"):
        draft = torchxrayvision.classifier_model(
            tensors, facts, classes=names.get("classes"), normalisation=normalisation
        )
        if draft is not None:
            return draft
    draft = _draft_of_known_input(tensors, facts, kind=kind, names=names)
    if normalisation is not None:
        raise ModelInvalid(
            f"how the input of {draft.kind} networks of this layout is made is known: leave --normalisation out."
        )
    return draft


def _draft_of_known_input(
    tensors: dict[str, Tensor], facts: Mapping[str, Any], *, kind: str | None, names: Names
) -> Draft:
    """The model of a layout that only one system has."""
    if kind in (None, "concept_prototype") and prototypes.is_concept_prototype(tensors):
        return prototypes.concept_prototype_model(tensors, names)
    if kind in (None, "pneumonia") and pneumonia.is_pneumonia(facts):
        return pneumonia.pneumonia_model(tensors, facts, names.get("classes"))
    if kind in (None, "lung_nodule") and pivot.is_pivot(tensors):
        return pivot.pivot_model(tensors)
    if kind in (None, "brain_metastasis") and metastasis.is_metastasis(tensors):
        return metastasis.metastasis_model(tensors, facts)
    raise ModelInvalid(
        "the checkpoint's layout is not known"
        + (f" for kind {kind!r}." if kind else ": say --kind, or import safetensors with a card.")
    )


def _check_trust(file: Path, trust: bool) -> None:
    if not trust:
        raise ModelUntrusted(
            f"{file} has to be unpickled, which can run code from it: add --trust if you know where it is from."
        )


def _names(labels: Path | None) -> Names:
    """Names of classes and concepts from a labels file."""
    if labels is None:
        return {}
    try:
        content = json.loads(labels.read_text())
        names = {
            key: [str(name) for name in content[key]] for key in ("classes", "concepts") if key in content
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InferenceError(
            f'{labels} is no labels file: it has to be JSON like {{"classes": ["..."]}}.'
        ) from error
    if not names:
        raise InferenceError(f'{labels} is no labels file: it has to be JSON like {{"classes": ["..."]}}.')
    return names
