"""The HTTP API as values, without input and output: requests to send, answers that were read, and when to try again.

Client and AsyncClient differ only in how bytes are moved.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Sequence
from urllib.parse import quote, urlsplit

from leeway.errors import LeewayError, Problem, Unreachable, problem_of
from leeway.rows import instances

#: Kinds of problems after which the same request can succeed, at another replica or a little later.
_PASSING = frozenset(
    ["model-process-ended", "model-restarting", "model-unavailable", "shutting-down", "too-many-connections", "worker-panicked"]
)


@dataclass(frozen=True)
class ModelVersion:
    """The version of a model that answered."""

    name: str
    version: int
    sha256: str


@dataclass(frozen=True)
class Answer:
    """The predictions for the rows of a request, in order. It can be used like a list of them."""

    predictions: list[Any]
    model: ModelVersion
    #: One id for each prediction, to report its outcome with `feedback`.
    prediction_ids: list[str]
    #: Id of the request in the server's log.
    request_id: str | None = None
    #: Milliseconds in each stage, as the server measured them: net, pre, queue, infer, post.
    stages_ms: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.predictions)

    def __getitem__(self, row: int) -> Any:
        return self.predictions[row]


@dataclass(frozen=True)
class Outcome:
    """What turned out to be true of a prediction: its class, or its number, or amounts of business metrics."""

    prediction_id: str
    label: str | int | bool | None = None
    value: float | None = None
    metrics: Mapping[str, float | bool] | None = None

    def document(self) -> dict[str, Any]:
        members = {"label": self.label, "value": self.value, "metrics": self.metrics}
        given = {name: member for name, member in members.items() if member is not None}
        return {"prediction_id": self.prediction_id, **given}


@dataclass(frozen=True)
class FeedbackResult:
    """How many outcomes were joined to their predictions, and how many were not, by reason."""

    results: dict[str, int]
    #: The first outcomes that were not joined: {"index": 0, "result": "unknown", "detail": "..."}.
    problems: list[dict[str, Any]]


@dataclass(frozen=True)
class Retries:
    """When a request that failed is sent again. A wait never goes beyond the time of the call."""

    #: Tries after the first one.
    most: int = 3
    #: Longest first wait where the server does not say how long to wait. It doubles with every try.
    backoff_s: float = 0.05

    def wait_s(self, failed: LeewayError, tries: int, left_s: float) -> float | None:
        """Returns how long to wait before the next try; None if there should be none.

        `tries` is the number of tries so far, and `left_s` the time that is left for the call.
        """
        if tries > self.most or not _is_passing(failed):
            return None
        backoff = self.backoff_s * 2 ** (tries - 1)
        asked = failed.retry_after_s if isinstance(failed, Problem) else None
        # A random part keeps clients that were refused together from coming back together.
        wait = random.uniform(0, backoff) if asked is None else asked + random.uniform(0, backoff)
        return wait if wait < left_s else None


def _is_passing(failed: LeewayError) -> bool:
    """Returns true if the same request can succeed later. Predictions and feedback may be sent twice."""
    if isinstance(failed, Unreachable):
        return True
    if not isinstance(failed, Problem):
        return False
    # Without Retry-After, the server knows that waiting does not help.
    return failed.retry_after_s is not None or failed.status == 502 or failed.kind in _PASSING


@dataclass(frozen=True)
class Address:
    """The parts of a server's URL."""

    is_encrypted: bool
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Address:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the URL of a server, as in http://127.0.0.1:8080")
        is_encrypted = parts.scheme == "https"
        port = parts.port if parts.port is not None else (443 if is_encrypted else 80)
        return cls(is_encrypted, parts.hostname, port, parts.path.rstrip("/"))

    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_encrypted else 80) else f"{host}:{self.port}"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawAnswer:
    """An answer as it was read. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Deadline:
    """The end of a call."""

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s: found {timeout_s}, expected a number above 0")
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def left_s(self) -> float:
        return self._end - time.monotonic()

    def check(self) -> float:
        """Returns the time that is left, or raises the error that there is none."""
        left = self.left_s()
        if left <= 0:
            raise self.passed()
        return left

    def passed(self) -> Unreachable:
        return Unreachable(f"no answer within timeout_s = {self._timeout_s:g}")


def predict_request(
    model: str | None,
    rows: Any,
    version: int | None,
    routing_key: str | None,
    priority: str | None,
    request_id: str | None,
) -> Request:
    if model is None and version is not None:
        raise ValueError("version: name the model, too")
    path = "/predict"
    if model is not None:
        of_version = "" if version is None else f"/versions/{version}"
        path = f"/v1/models/{quote(model, safe='')}{of_version}:predict"
    named = {"x-routing-key": routing_key, "x-priority": priority, "x-request-id": request_id}
    headers = {name: text for name, text in named.items() if text is not None}
    for name, text in headers.items():
        if not text.isascii() or not text.isprintable():
            raise ValueError(f"{name}: {text!r} cannot be sent in a header: use printable ASCII")
    return Request("POST", path, _json({"instances": instances(rows)}), headers)


def schema_request(model: str) -> Request:
    return Request("GET", f"/v1/models/{quote(model, safe='')}/schema")


def feedback_request(outcomes: Sequence[Outcome]) -> Request:
    return Request("POST", "/feedback", _json({"feedback": [outcome.document() for outcome in outcomes]}))


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def read_answer(answer: RawAnswer) -> Answer:
    document = read_document(answer)
    try:
        model = document["model"]
        return Answer(
            predictions=document["predictions"],
            model=ModelVersion(model["name"], int(model["version"]), model["sha256"]),
            prediction_ids=document.get("prediction_ids", []),
            request_id=answer.headers.get("x-request-id"),
            stages_ms=_stages(answer.headers.get("server-timing", "")),
        )
    except (KeyError, TypeError) as error:
        raise Unreachable(f"this is not an answer of Leeway: {answer.body[:200]!r}") from error


def read_feedback(answer: RawAnswer) -> FeedbackResult:
    document = read_document(answer)
    return FeedbackResult(document["results"], document["problems"])


def read_document(answer: RawAnswer) -> Any:
    """Returns the JSON of an answer, or raises the problem that it describes."""
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = None
    if 200 <= answer.status < 300:
        if document is None:
            raise Unreachable(f"this is not an answer of Leeway: {answer.body[:200]!r}")
        return document
    raise problem(answer, document)


def problem(answer: RawAnswer, document: Any) -> Problem:
    """Returns the error for an answer. A proxy's answers have no document."""
    if not isinstance(document, dict):
        document = {"detail": answer.body[:200].decode("utf-8", "replace").strip()}
    try:
        retry_after = float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        # A date is possible, too, but Leeway sends seconds.
        retry_after = None
    return problem_of(answer.status, document, retry_after)


def _stages(server_timing: str) -> dict[str, float]:
    stages = {}
    for part in server_timing.split(","):
        name, _, duration = part.strip().partition(";dur=")
        try:
            stages[name] = float(duration)
        except ValueError:
            continue
    return stages
