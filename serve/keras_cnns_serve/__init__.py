"""A small inference server for image classifiers: a model repository in, labels over HTTP out."""
