"""Random changes of training images and their targets, as functions of (seed, epoch, index)."""
