"""Label review: find images whose label is probably wrong."""

from keras_cnns.review.reviewing import Review, review

__all__ = ["Review", "review"]
