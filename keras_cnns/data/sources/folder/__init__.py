"""Folders of images as a source, and the checks of their files."""

from keras_cnns.data.sources.folder.source import Folder, FolderError

__all__ = ["Folder", "FolderError"]
