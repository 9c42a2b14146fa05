"""The model card of a run, as Hugging Face's hub reads it."""

from keras_cnns.card.model_card import Card, write_card

__all__ = ["Card", "write_card"]
