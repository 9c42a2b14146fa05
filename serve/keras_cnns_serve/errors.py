"""What can go wrong, in the core's own terms. Each protocol maps these to its own codes."""


class ServeError(Exception):
    """The base of every error whose message is meant for the person who asked."""


class RepositoryError(ServeError):
    """The model repository itself cannot be served: it is missing, or nothing in it is usable."""


class VersionRefusedError(ServeError):
    """One version of one model may not be served; the message is the reason."""


class ModelNotFoundError(ServeError):
    """No model, or no version of it, has this name."""


class ModelUnavailableError(ServeError):
    """The model or version exists in the repository, and was refused."""


class InvalidInputError(ServeError):
    """The request's values, shapes, names or form are wrong."""


class InputTooLargeError(ServeError):
    """The request is larger than this server takes."""


class UnsupportedImageError(ServeError):
    """The bytes are not an image in a format that this server reads."""


class DamagedImageError(ServeError):
    """The bytes begin like an image, and cannot be decoded to their end."""


class ImageTooLargeError(InputTooLargeError):
    """The image has more pixels than this server decodes."""
