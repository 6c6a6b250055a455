"""Errors of this package. Every one is a LeewayError."""

from __future__ import annotations

from typing import Any, Mapping


class LeewayError(Exception):
    """Base of all errors of this package."""


class ExportFailed(LeewayError):
    """A model could not be exported. The message says what to change."""


class ParityFailed(ExportFailed):
    """The exported model does not answer as the framework does."""


class Unreachable(LeewayError):
    """No answer came: the server is not there, or the connection broke."""


class Problem(LeewayError):
    """The server answered with an error. Its document has the fields of RFC 9457."""

    def __init__(self, status: int, document: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.document = dict(document)
        #: Last part of the type, as in "invalid-input"; docs/http-api.md lists them.
        self.kind = str(self.document.get("type", "")).rpartition(":")[2]
        self.title = str(self.document.get("title", ""))
        self.detail = str(self.document.get("detail", ""))
        #: Id of the request in the server's log.
        self.request_id: str | None = self.document.get("request_id")
        #: Seconds that the server asks to wait before the next try; None if it does not say.
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {self.title or 'error'}: {self.detail}".rstrip(": "))


class InvalidInput(Problem):
    """The request is wrong, and the same request will fail again (400, 405, 413, 415, 422)."""


class Unauthorized(Problem):
    """The server needs an API key, or does not know this one (401, 403)."""


class NotFound(Problem):
    """There is no such model, version or path (404)."""


class Conflict(Problem):
    """The change was based on a state that is no longer current (409)."""


class Refused(Problem):
    """The server has no capacity for the request now, or is being stopped; the request was not run (429, 502, 503)."""


class DeadlineExceeded(Problem):
    """The time of the request ran out (408, 504)."""


class ServerFailed(Problem):
    """The model or the server failed (500 and others)."""


_BY_STATUS: dict[int, type[Problem]] = {
    400: InvalidInput,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    405: InvalidInput,
    408: DeadlineExceeded,
    409: Conflict,
    413: InvalidInput,
    415: InvalidInput,
    422: InvalidInput,
    429: Refused,
    502: Refused,
    503: Refused,
    504: DeadlineExceeded,
}


def problem_of(status: int, document: Mapping[str, Any], retry_after_s: float | None) -> Problem:
    """Returns the error for a status and its document."""
    return _BY_STATUS.get(status, ServerFailed)(status, document, retry_after_s)
