"""The model store: models as safetensors files with a card, verified each time they are loaded."""

from inference.store.card import ModelCard
from inference.store.combination import refusal_of_models
from inference.store.store import DEMONSTRATION, ModelStore, StoredModel, Verdict

__all__ = ["DEMONSTRATION", "ModelCard", "ModelStore", "StoredModel", "Verdict", "refusal_of_models"]
