"""One error hierarchy. Every error says what is wrong and, in `remedy`, how to mend it."""


class DriftError(Exception):
    """Base of all errors that this project raises on purpose.

    `status` is the HTTP status that stands for it where it reaches an API.
    """

    status = 500

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class SettingsError(DriftError):
    """A setting is missing or wrong; names the environment variable."""


class SpecError(DriftError):
    """A job's specification cannot be carried out; raised before a token is generated."""

    status = 422


class DatasetError(SpecError):
    """A problem row is bad; names file, line and field."""


class NotFound(DriftError):
    """What the request names does not exist."""

    status = 404


class Conflict(DriftError):
    """The request does not fit the state of what it names."""

    status = 409


class Overloaded(DriftError):
    """A bounded queue is full; try again later."""

    status = 429


class Unavailable(DriftError):
    """Something this service depends on cannot be reached within its deadline."""

    status = 503
