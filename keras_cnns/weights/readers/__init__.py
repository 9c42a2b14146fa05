"""One reader for each file format; `keras_cnns.weights.files` chooses between them."""
