"""The errors of the server. Each protocol maps them to its own status codes."""


class ServeError(Exception):
    """The base class of errors whose messages are sent to clients or shown to the user."""


class RepositoryError(ServeError):
    """The model repository cannot be served: it is missing, or has no usable model."""


class VersionRefusedError(ServeError):
    """A version of a model is refused; the message gives the reason."""


class ModelNotFoundError(ServeError):
    """The repository has no model of this name, or the model has no such version or label."""


class ModelUnavailableError(ServeError):
    """The model or version exists in the repository, but was refused or is not loaded."""


class InvalidInputError(ServeError):
    """The request has a wrong value, shape, name or format."""


class SignatureError(InvalidInputError):
    """The model has no signature of this name, or the signature has other inputs."""


class ConfigError(InvalidInputError):
    """The configuration of models is wrong: its syntax, a name, a policy or a label."""


class ForbiddenError(ServeError):
    """The request needs administrator rights that this client does not have."""


class UnauthenticatedError(ServeError):
    """The request needs a token, and has no token or a wrong one."""


class DeadlineExceededError(ServeError):
    """The request's deadline passed before its answer was computed."""


class QueueFullError(ServeError):
    """The queue or the memory budget is full.

    Args:
        message: a sentence with the name of the limit and its value.
        retry_after: seconds after which the client should try again.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InputTooLargeError(ServeError):
    """The request exceeds a size limit."""


class TooSlowError(ServeError):
    """The request arrives more slowly than the server permits."""


class UnsupportedEncodingError(ServeError):
    """The body has an unsupported content encoding."""


class UnsupportedImageError(ServeError):
    """The bytes are not an image in a supported format."""


class DamagedImageError(ServeError):
    """The bytes have the header of an image, but cannot be decoded completely."""


class ImageTooLargeError(InputTooLargeError):
    """The image has more pixels than the server permits."""


# The message that clients get for any error that is not a `ServeError`.
UNEXPECTED = "the server failed to answer; its log says why"

# The name of each error in google.rpc.Code; TensorFlow Serving and gRPC use these names in metrics.
_CODES: dict[type[Exception], str] = {
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
    """Return the name of the error's code in google.rpc.Code."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), "INTERNAL")


def one_line(error: Exception) -> str:
    """Return the message of a library's error as one line of at most 4,000 characters."""
    return " ".join(str(error).split())[:4000]
