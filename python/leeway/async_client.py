"""The client for asyncio."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Any, Sequence

from leeway import protocol
from leeway.errors import LeewayError, Problem, Unreachable
from leeway.protocol import Address, Answer, Deadline, FeedbackResult, Outcome, RawAnswer, Request, Retries

_MAX_IDLE = 64
#: The largest head of an answer, and the largest line of a chunked body.
_MAX_LINE = 64 << 10


class AsyncClient:
    """Asks a Leeway server, as `Client` does. A call that is cancelled closes its connection, which ends its run.

        async with leeway.AsyncClient("http://127.0.0.1:8080") as client:
            answer = await client.predict("churn", [{"age": 34, "plan": "basic"}])
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
        self._headers = {"host": self._address.host_header(), "content-type": "application/json"}
        self._headers["accept"] = "application/json"
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._retries = retries
        self._ssl = ssl_context or (ssl.create_default_context() if self._address.is_encrypted else None)
        self._idle: list[_Connection] = []

    async def predict(
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
        """Predicts rows, as `Client.predict`."""
        request = protocol.predict_request(model, rows, version, routing_key, priority, request_id)
        return protocol.read_answer(await self._call(request, timeout_s))

    async def feedback(self, outcomes: Sequence[Outcome], *, timeout_s: float | None = None) -> FeedbackResult:
        """Reports the outcomes of predictions, as `Client.feedback`."""
        return protocol.read_feedback(await self._call(protocol.feedback_request(outcomes), timeout_s))

    async def models(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Returns the served models, as `Client.models`."""
        document = protocol.read_document(await self._call(Request("GET", "/v1/models"), timeout_s))
        models: list[dict[str, Any]] = document["models"]
        return models

    async def schema(self, model: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Returns the schemas of a model, as `Client.schema`."""
        schema: dict[str, Any] = protocol.read_document(await self._call(protocol.schema_request(model), timeout_s))
        return schema

    async def is_ready(self, *, timeout_s: float = 1.0) -> bool:
        """Returns true if the server accepts requests and serves at least one model."""
        try:
            return (await self._exchange(Request("GET", "/readyz"), Deadline(timeout_s))).status == 200
        except Unreachable:
            return False

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, request: Request, timeout_s: float | None) -> RawAnswer:
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s)
        tries = 0
        while True:
            tries += 1
            failed: LeewayError
            try:
                answer = await self._exchange(request, deadline)
                if answer.status >= 400:
                    protocol.read_document(answer)
                return answer
            except (Problem, Unreachable) as error:
                failed = error
            wait = self._retries.wait_s(failed, tries, deadline.left_s())
            if wait is None:
                raise failed
            await asyncio.sleep(wait)

    async def _exchange(self, request: Request, deadline: Deadline) -> RawAnswer:
        try:
            async with asyncio.timeout(deadline.check()):
                while self._idle:
                    connection = self._idle.pop()
                    try:
                        return await self._exchange_on(connection, request, deadline)
                    except (ConnectionError, asyncio.IncompleteReadError) as error:
                        # The server has closed the idle connection in the meantime.
                        if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                            raise
                reader, writer = await asyncio.open_connection(
                    self._address.host, self._address.port, ssl=self._ssl, limit=_MAX_LINE
                )
                return await self._exchange_on(_Connection(reader, writer), request, deadline)
        except TimeoutError as error:
            raise deadline.passed() from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise Unreachable(f"{self._address.host}:{self._address.port}: {error or type(error).__name__}") from error

    async def _exchange_on(self, connection: _Connection, request: Request, deadline: Deadline) -> RawAnswer:
        is_whole = False
        try:
            left = str(max(1, int(deadline.left_s() * 1000)))
            headers = {**self._headers, **request.headers, "x-request-timeout-ms": left}
            await connection.send(request.method, self._address.prefix + request.path, headers, request.body or b"")
            answer = await connection.receive()
            is_whole = not connection.closes
            return answer
        finally:
            # Also after a cancellation: what is left of the answer must not be taken for the next one.
            if is_whole and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
            else:
                connection.close()


class _Connection:
    """A connection of HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        #: True if the last answer was the last one of this connection.
        self.closes = False

    async def send(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
        lines += [f"content-length: {len(body)}", "", ""]
        self._writer.write("\r\n".join(lines).encode("ascii") + body)
        await self._writer.drain()

    async def receive(self) -> RawAnswer:
        status, headers = 100, {"": ""}
        while status < 200:
            status, headers = _head(await self._reader.readuntil(b"\r\n\r\n"))
        connection = headers.get("connection", "").lower()
        self.closes = "close" in connection
        if status in (204, 304):
            return RawAnswer(status, headers, b"")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = await self._chunks()
        elif "content-length" in headers:
            body = await self._reader.readexactly(int(headers["content-length"]))
        else:
            self.closes = True
            body = await self._reader.read()
        return RawAnswer(status, headers, body)

    async def _chunks(self) -> bytes:
        chunks = []
        while length := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
            chunks.append(await self._reader.readexactly(length))
            await self._reader.readexactly(2)
        while (await self._reader.readuntil(b"\r\n")) != b"\r\n":
            pass
        return b"".join(chunks)

    def close(self) -> None:
        self._writer.close()


def _head(text: bytes) -> tuple[int, dict[str, str]]:
    """Reads the status and the headers of an answer."""
    first, *lines = text.decode("latin-1").split("\r\n")
    protocol_version, _, rest = first.partition(" ")
    if not protocol_version.startswith("HTTP/1."):
        raise ValueError(f"this is not HTTP/1.1: {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return int(rest[:3]), headers
