"""Who may change what is served, over any protocol."""

from .errors import ForbiddenError


def check_admin(admin: bool) -> None:
    """Who is no administrator changes nothing.

    Raises:
        ForbiddenError: this server takes no such request.
    """
    if not admin:
        raise ForbiddenError(
            "this server loads, unloads and configures models for nobody; start it with --admin"
        )
