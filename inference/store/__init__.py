"""The model store: safetensors with a model card, fetched or imported once, verified at every load."""

from inference.store.card import ModelCard
from inference.store.store import ModelStore, StoredModel, Verdict

__all__ = ["ModelCard", "ModelStore", "StoredModel", "Verdict"]
