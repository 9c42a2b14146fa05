"""The model card of a run, in the format of Hugging Face's hub."""

from keras_cnns.card.model_card import Card, write_card

__all__ = ["Card", "write_card"]
