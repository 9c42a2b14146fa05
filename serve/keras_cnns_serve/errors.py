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
    """The model or version exists in the repository, and was refused or is not loaded."""


class InvalidInputError(ServeError):
    """The request's values, shapes, names or form are wrong."""


class SignatureError(InvalidInputError):
    """The request names a signature that the model does not have, or that takes something else."""


class ConfigError(InvalidInputError):
    """The configuration of models is wrong: its form, a name, a policy or a label."""


class ForbiddenError(ServeError):
    """The request is for an administrator, and this server takes none from here."""


class UnauthenticatedError(ServeError):
    """The request needs a token, and has none or a wrong one."""


class DeadlineExceededError(ServeError):
    """The request's time was over before its answer was there."""


class QueueFullError(ServeError):
    """More requests wait than this server lets wait.

    Args:
        message: what is full, and how full.
        retry_after: seconds after which another try is worth while.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InputTooLargeError(ServeError):
    """The request is larger than this server takes."""


class TooSlowError(ServeError):
    """The request comes more slowly than this server waits."""


class UnsupportedEncodingError(ServeError):
    """The body is packed in a way that this server does not unpack."""


class UnsupportedImageError(ServeError):
    """The bytes are not an image in a format that this server reads."""


class DamagedImageError(ServeError):
    """The bytes begin like an image, and cannot be decoded to their end."""


class ImageTooLargeError(InputTooLargeError):
    """The image has more pixels than this server decodes."""


UNEXPECTED = "the server failed to answer; its log says why"  # to a client, of any other error

# What each is in google.rpc.Code, the terms in which TensorFlow Serving and gRPC count errors.
CODES: dict[type[Exception], str] = {
    InvalidInputError: "INVALID_ARGUMENT",
    UnsupportedEncodingError: "INVALID_ARGUMENT",
    UnsupportedImageError: "INVALID_ARGUMENT",
    DamagedImageError: "INVALID_ARGUMENT",
    InputTooLargeError: "INVALID_ARGUMENT",
    UnauthenticatedError: "UNAUTHENTICATED",
    ForbiddenError: "PERMISSION_DENIED",
    ModelNotFoundError: "NOT_FOUND",
    ModelUnavailableError: "UNAVAILABLE",
    TooSlowError: "DEADLINE_EXCEEDED",
    QueueFullError: "RESOURCE_EXHAUSTED",
    DeadlineExceededError: "DEADLINE_EXCEEDED",
}


def code_name(error: Exception) -> str:
    """Return the name of an error's google.rpc.Code."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), "INTERNAL")


def one_line(error: Exception) -> str:
    """Return a library's error as one line, which may have to be shortened."""
    return " ".join(str(error).split())[:4000]
