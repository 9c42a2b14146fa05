"""Choose a recipe for a folder of photos: `keras-cnns fit`."""
