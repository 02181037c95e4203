"""The model store: a folder with card and safetensors weights for each model, and the bundled models."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from inference.errors import InferenceError, ModelAbsent, ModelInvalid
from inference.store.card import NAME, ModelCard
from inference.store.card_files import (
    CARD,
    HISTORY,
    add_to_history,
    read_card,
    sync,
    write_card,
    write_synced,
)
from inference.store.card_parts import CardCalibration, CardModel
from inference.store.draft import Draft
from inference.store.expects import Expectations

WEIGHTS = "weights.safetensors"
CACHE = ".cache"
DEMONSTRATION = "demo"
DEMONSTRATION_FOLDER = Path(__file__).resolve().parents[1] / "demo"


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A model card and the safetensors file that it describes."""

    card: ModelCard
    weights: Path
    cache: Path
    """Folder for files that are derived from the weights and can be made again."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A card that a model has or had; ``used`` marks the present one."""

    card: ModelCard
    used: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of verifying one model."""

    name: str
    ok: bool
    message: str


Trial = Callable[[Path, str], str | None]
"""Says, given a model's folder and engine kind, why the model cannot be used; None if it can."""


def check_name(name: str) -> None:
    """Refuse names that a model must not have.

    Raises:
        ModelInvalid: the name is one of them.
    """
    if re.fullmatch(NAME, name) is None or name == DEMONSTRATION:
        raise ModelInvalid(f"{name!r} cannot be a model's name: use letters, digits, dot, dash, underscore.")


class ModelStore:
    """The models in a folder, and the demonstration models, called ``demo``, that come with overread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def card(self, reference: str, kind: str | None = None) -> ModelCard:
        """The card of a model, without a look at its weights; raises like :meth:`get`."""
        return self._look_up(reference, kind).card

    def get(self, reference: str, kind: str | None = None) -> StoredModel:
        """The model that a reference names, with weights that were verified.

        Args:
            reference: a name, ``NAME@VERSION``, the path of a folder with a card, or the path of a weights file
                beside its card. VERSION is a version in the model's history, or the part after its last dot.
                ``demo`` is the bundled model for engines of ``kind``.
            kind: the engine kind; only ``demo`` needs it.

        Raises:
            ModelAbsent: there is no such model or version.
            ModelInvalid: the card cannot be read, or the weights are not those of the card.
        """
        stored = self._look_up(reference, kind)
        if not _is_intact(stored):
            raise ModelInvalid(
                f"the weights of model {reference!r} are not those of its card: pull or import it again."
            )
        return stored

    def _look_up(self, reference: str, kind: str | None) -> StoredModel:
        name, version = _name_and_version(reference)
        folder = self._find_folder(name, kind)
        if folder is None and reference == DEMONSTRATION:
            raise ModelAbsent(f"there is no demonstration model for {kind} engines: name another model.")
        if folder is None:
            raise ModelAbsent(
                f"model {name!r} is not in the store: fetch it with `overread models pull {name}` "
                f"or put a file there with `overread models import FILE --name {name}`."
            )
        return self._read_version(name, version) if version else self._read_folder(folder)

    def _read_version(self, name: str, version: str) -> StoredModel:
        versions = {one.card.identity.version: one.card for one in self.history(name)}
        found = [card for key, card in versions.items() if version in (key, key.rpartition(".")[2])]
        if len(found) != 1:
            raise ModelAbsent(
                f"model {name!r} has {'no' if not found else 'more than one'} version {version!r}: "
                f"see `overread models history {name}`."
            )
        return replace(self._read_folder(self._folder_in_store(name)), card=found[0])

    def entries(self) -> list[StoredModel]:
        """Every model whose card can be read, the bundled ones first."""
        found: list[StoredModel] = []
        for folder in self._folders():
            try:
                found.append(self._read_folder(folder))
            except ModelInvalid:
                continue  # verify() reports it
        return found

    def verify(self, trial: Trial | None = None) -> list[Verdict]:
        """Compare the weights of every model with the digest in its card, and run the ``trial`` if there is one."""
        verdicts: list[Verdict] = []
        for folder in self._folders():
            name = folder.name
            try:
                stored = self._read_folder(folder)
                name = stored.card.name
                if not _is_intact(stored):
                    raise ModelInvalid("the weights are not those of the card")
            except ModelInvalid as error:
                verdicts.append(Verdict(name=name, ok=False, message=str(error)))
                continue
            reason = trial(folder, stored.card.kind) if trial is not None else None
            message = reason or f"sha256 {stored.card.sha256}"
            verdicts.append(Verdict(name=name, ok=reason is None, message=message))
        return verdicts

    def set_calibration(self, reference: str, calibration: CardCalibration) -> StoredModel:
        """Make a new version of a model with this calibration; the former version stays in its history.

        Raises:
            ModelAbsent: there is no such model.
            InferenceError: the model is a bundled one, whose card cannot be changed.
        """
        return self._new_version(reference, calibration=calibration)

    def set_expectations(self, reference: str, expects: Expectations) -> StoredModel:
        """Make a new version of a model with these expectations; raises like :meth:`set_calibration`."""
        return self._new_version(reference, expects=expects)

    def _new_version(self, reference: str, **changes: CardModel) -> StoredModel:
        folder = self._folder_in_store(reference)
        self._replace_card(self.get(reference).card.model_copy(update=changes), folder)
        return self._read_folder(folder)

    def history(self, name: str) -> list[Version]:
        """Every version of a model in the store, oldest first.

        Raises:
            ModelAbsent: there is no such model.
            InferenceError: the model is a bundled one.
        """
        folder = self._folder_in_store(name)
        used = read_card(folder / CARD).identity.version
        cards = [read_card(file) for file in sorted((folder / HISTORY).glob("*.json"))]
        versions = {card.identity.version: card for card in cards}
        if used not in versions:  # the card was changed by hand, or never changed
            versions[used] = read_card(folder / CARD)
        return [Version(card=card, used=version == used) for version, card in versions.items()]

    def use(self, reference: str) -> StoredModel:
        """Use a former version from now on: after ``use("NAME@VERSION")``, ``NAME`` means that version.

        Raises:
            ModelAbsent: there is no such model or version.
        """
        return self._new_version(reference)

    def _folder_in_store(self, reference: str) -> Path:
        """The folder of a model in the store, by a reference with or without a version."""
        name = _name_and_version(reference)[0]
        folder = self._find_folder(name)
        if name == DEMONSTRATION:
            raise InferenceError(
                f"the card of model {reference!r} cannot be changed: import a copy of the model under another name."
            )
        if folder is None:
            raise ModelAbsent(f"model {name!r} is not in the store: see `overread models list`.")
        return folder

    def _replace_card(self, card: ModelCard, folder: Path) -> None:
        """Give a model a new card, and add the present card and the new one to its history."""
        add_to_history([read_card(folder / CARD), card], folder / HISTORY)
        write_synced(card, folder / CARD)

    def add(self, draft: Draft, name: str, origin: str, trial: Trial | None = None) -> StoredModel:
        """Write a model into the store, but only if it passes the ``trial``.

        Raises:
            ModelInvalid: the model does not pass.
        """
        from safetensors.torch import save_file

        with self._new_folder(name) as folder:
            save_file(draft.tensors, folder / WEIGHTS)
            digest = _digest(folder / WEIGHTS)
            for file, text in draft.files.items():
                (folder / file).write_text(text)
            write_card(draft.card(name=name, origin=origin, sha256=digest), folder)
            _check_loadable(folder, draft.kind, trial)
        return self.get(name)

    def add_file(self, weights: Path, card_file: Path, name: str, trial: Trial | None = None) -> StoredModel:
        """Copy a weights file and its card into the store, but only if the model passes the ``trial``.

        Raises:
            ModelInvalid: the card cannot be read or belongs to another file, or the model does not pass.
        """
        card = read_card(card_file)
        if _digest(weights) != card.sha256:
            raise ModelInvalid(
                f"{weights} is not the file that {card_file.name} describes: their digests differ."
            )
        with self._new_folder(name) as folder:
            shutil.copyfile(weights, folder / WEIGHTS)
            write_card(card.model_copy(update={"name": name}), folder)
            _check_loadable(folder, card.kind, trial)
        return self.get(name)

    @contextmanager
    def _new_folder(self, name: str) -> Iterator[Path]:
        """A temporary folder to write to; on success it replaces the model's folder and keeps its history."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        try:
            yield temporary
            place = self.folder / name
            if (place / HISTORY).is_dir():
                shutil.copytree(place / HISTORY, temporary / HISTORY)
            with suppress(ModelInvalid):  # there may be no present card
                add_to_history([read_card(place / CARD)], temporary / HISTORY)
            for written in temporary.rglob("*"):
                sync(written)
            if place.exists():
                place.rename(temporary.with_name(temporary.name + ".old"))
            temporary.rename(place)
            sync(self.folder)
        finally:
            for left in (temporary, temporary.with_name(temporary.name + ".old")):
                shutil.rmtree(left, ignore_errors=True)

    def _find_folder(self, reference: str, kind: str | None = None) -> Path | None:
        if reference == DEMONSTRATION:
            folder = DEMONSTRATION_FOLDER / str(kind)
            return folder if (folder / CARD).exists() else None
        if re.fullmatch(NAME, reference) and (self.folder / reference / CARD).exists():
            return self.folder / reference
        path = Path(reference)
        folder = path.parent if path.suffix == ".safetensors" else path
        return folder if os.sep in reference and (folder / CARD).exists() else None

    def _read_folder(self, folder: Path) -> StoredModel:
        weights = folder / WEIGHTS
        if not weights.exists():
            raise ModelInvalid(f"{folder} has a card but no {WEIGHTS}: pull or import the model again.")
        return StoredModel(card=read_card(folder / CARD), weights=weights, cache=self.folder / CACHE)

    def _folders(self) -> list[Path]:
        own = sorted(self.folder.glob("*/" + CARD)) if self.folder.exists() else []
        bundled = sorted(DEMONSTRATION_FOLDER.glob("*/" + CARD))
        return [card.parent for card in (*bundled, *own) if not card.parent.name.startswith(".")]


def _check_loadable(folder: Path, kind: str, trial: Trial | None) -> None:
    reason = trial(folder, kind) if trial is not None else None
    if reason is not None:
        raise ModelInvalid(f"the model cannot be loaded: {reason}")


def _name_and_version(reference: str) -> tuple[str, str]:
    """The parts of ``NAME@VERSION``; a path, which may contain an @, stays whole."""
    name, _, version = reference.partition("@")
    return (name, version) if re.fullmatch(NAME, name) else (reference, "")


def _is_intact(stored: StoredModel) -> bool:
    """Whether the weights and the other files have the digests in the card."""
    folder = stored.weights.parent
    wanted = {WEIGHTS: stored.card.sha256, **stored.card.files}
    return all(
        (folder / name).is_file() and _digest(folder / name) == digest for name, digest in wanted.items()
    )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
