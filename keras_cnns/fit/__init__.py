"""The guided path from a folder of photos to a recipe, on top of training and report."""
