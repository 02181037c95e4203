"""Takes models into the store: recognises what a file or folder holds, and tries to load it before it is kept."""

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
    """Download one of torchxrayvision's published weight sets and take it into the store.

    Raises:
        ModelAbsent: there is no published weight set of that name.
        InferenceError: the download failed.
        ModelInvalid: the downloaded file is no such model.
    """
    published = torchxrayvision.published(name)
    with tempfile.TemporaryDirectory(prefix="overread-") as scratch:
        advice = f"`overread models import FILE --name {name} --published {name} --trust`"
        file = download(published.address, Path(scratch) / "weights.pt", advice, progress)
        # Trusted, since the library itself names the address.
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
    """Take a local file, an nnU-Net results folder or a MONAI bundle into the store.

    The model is loaded once as a trial before it is kept.

    Args:
        store: the store.
        file: the file or folder.
        name: name of the model in the store.
        kind: engine kind; None recognises it.
        labels: for files that do not name their outputs, a JSON file with ``{"classes": [...]}`` and, for concept
            prototypes, ``{"concepts": [...]}``.
        normalisation: of the network's input, for files that do not state it.
        published: torchxrayvision's weight set that the file is a download of; it states labels and normalisation.
        trust: whether code in the file or bundle may run.

    Raises:
        ModelUntrusted: the model can run code and ``trust`` is False.
        ModelInvalid: overread does not know the layout of the model, or cannot load it.
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
    names = _read_labels_file(labels)
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
        contents = []
        for number, checkpoint in enumerate(checkpoints):
            # One folder each, since tensors may stay mapped from their file.
            place = Path(scratch) / str(number)
            place.mkdir()
            contents.append(unpickle(checkpoint, place))
        draft = (
            nnunet.nnunet_model(folder, contents, kind=kind)
            if is_nnunet
            else monai_bundle.bundle_model(folder, contents[0][0], kind=kind, trust=trust)
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

    Args:
        tensors: the checkpoint's tensors by name.
        facts: its plain facts.
        kind: engine kind; None recognises it.
        names: names of classes and concepts, for files without them.
        normalisation: of the network's input, for files that do not state it.

    Raises:
        ModelInvalid: the layout is unknown, or is not one of ``kind``; or the normalisation is unknown; or
            ``normalisation`` was given although the layout determines it.
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
            f"{draft.kind} networks of this layout have a fixed normalisation: leave --normalisation out."
        )
    return draft


def _draft_of_known_input(
    tensors: dict[str, Tensor], facts: Mapping[str, Any], *, kind: str | None, names: Names
) -> Draft:
    """The model of a layout that belongs to one system, which determines how the input is made."""
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


def _read_labels_file(labels: Path | None) -> Names:
    """Names of classes and concepts from a labels file; none without a file."""
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
