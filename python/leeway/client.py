"""A client for threads. It keeps connections open, and may be shared by threads."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from types import TracebackType
from typing import Any, Sequence

from leeway import protocol
from leeway.errors import LeewayError, Problem, Unreachable
from leeway.protocol import Address, Answer, Deadline, FeedbackResult, Outcome, RawAnswer, Request, Retries

#: Connections that are kept open while no thread uses them.
_MAX_IDLE = 16


class Client:
    """Asks a Leeway server.

        with leeway.Client("http://127.0.0.1:8080") as client:
            answer = client.predict("churn", [{"age": 34, "plan": "basic"}])
            print(answer[0]["label"])

    `timeout_s` is the time for a whole call, with all of its tries; the server is told, and does not work longer.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        retries: Retries = Retries(),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._address = Address.parse(url)
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._retries = retries
        self._ssl = ssl_context or (ssl.create_default_context() if self._address.is_encrypted else None)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def predict(
        self,
        model: str | None,
        rows: Any,
        *,
        version: int | None = None,
        routing_key: str | None = None,
        priority: str | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Predicts rows: a DataFrame, an array, or a list of instances. `model=None` asks the default model.

        The same `routing_key` (a user, a device) always gets the same version. `priority` is "high", "normal" or "low".
        """
        request = protocol.predict_request(model, rows, version, routing_key, priority, request_id)
        return protocol.read_answer(self._call(request, timeout_s))

    def feedback(self, outcomes: Sequence[Outcome], *, timeout_s: float | None = None) -> FeedbackResult:
        """Reports the outcomes of predictions. It is safe to report one again."""
        return protocol.read_feedback(self._call(protocol.feedback_request(outcomes), timeout_s))

    def models(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Returns the served models, each with its versions, budget, inputs and outputs."""
        document = protocol.read_document(self._call(Request("GET", "/v1/models"), timeout_s))
        models: list[dict[str, Any]] = document["models"]
        return models

    def schema(self, model: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Returns the JSON Schemas of an instance and a prediction of a model, and an example of a request."""
        schema: dict[str, Any] = protocol.read_document(self._call(protocol.schema_request(model), timeout_s))
        return schema

    def is_ready(self, *, timeout_s: float = 1.0) -> bool:
        """Returns true if the server accepts requests and serves at least one model."""
        try:
            return self._exchange(Request("GET", "/readyz"), Deadline(timeout_s)).status == 200
        except Unreachable:
            return False

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, request: Request, timeout_s: float | None) -> RawAnswer:
        """Sends a request until it is answered, or until another try would be too late."""
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s)
        tries = 0
        while True:
            tries += 1
            failed: LeewayError
            try:
                answer = self._exchange(request, deadline)
                if answer.status < 400:
                    return answer
                protocol.read_document(answer)
                return answer
            except (Problem, Unreachable) as error:
                failed = error
            wait = self._retries.wait_s(failed, tries, deadline.left_s())
            if wait is None:
                raise failed
            time.sleep(wait)

    def _exchange(self, request: Request, deadline: Deadline) -> RawAnswer:
        connection = self._take()
        if connection is not None:
            try:
                return self._exchange_on(connection, request, deadline)
            except (http.client.RemoteDisconnected, ConnectionError):
                # The server has closed the idle connection in the meantime.
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise self._unreachable(error, deadline) from error
        connection = self._connection()
        try:
            return self._exchange_on(connection, request, deadline)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error, deadline) from error

    def _exchange_on(self, connection: http.client.HTTPConnection, request: Request, deadline: Deadline) -> RawAnswer:
        connection.timeout = deadline.check()
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(deadline.check())
        headers = {**self._headers, **request.headers, "host": self._address.host_header()}
        headers["x-request-timeout-ms"] = str(max(1, int(deadline.left_s() * 1000)))
        connection.request(request.method, self._address.prefix + request.path, request.body, headers)
        connection.sock.settimeout(deadline.check())
        response = connection.getresponse()
        chunks = []
        # The connection is closed by `response` if the server says so.
        while chunk := response.read1(1 << 16):
            chunks.append(chunk)
            left = deadline.check()
            if connection.sock is not None:
                connection.sock.settimeout(left)
        if response.length:
            raise http.client.IncompleteRead(b"".join(chunks), response.length)
        # Otherwise the connection waits for this answer to be read, before Python 3.12.
        response.close()
        names = {name.lower(): text for name, text in response.getheaders()}
        if response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        return RawAnswer(response.status, names, b"".join(chunks))

    def _unreachable(self, error: Exception, deadline: Deadline) -> Unreachable:
        if isinstance(error, TimeoutError):
            return deadline.passed()
        return Unreachable(f"{self._address.host}:{self._address.port}: {error or type(error).__name__}")

    def _connection(self) -> http.client.HTTPConnection:
        if self._ssl is not None:
            return http.client.HTTPSConnection(self._address.host, self._address.port, context=self._ssl)
        return http.client.HTTPConnection(self._address.host, self._address.port)

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()
