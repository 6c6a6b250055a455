"""The clients, against the shipped models, and against servers that refuse, break off and hang."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import leeway
from leeway.protocol import Address, Deadline, Retries
from leeway.testing import Server

PENGUIN = {
    "island": "Biscoe", "bill_length_mm": 48.7, "bill_depth_mm": 14.1, "flipper_length_mm": 210, "body_mass_g": 4450,
    "sex": "female",
}

Predict = Callable[..., leeway.Answer]


@contextmanager
def _sync(url: str, **settings: Any) -> Iterator[Callable[..., Any]]:
    with leeway.Client(url, **settings) as client:
        yield lambda method, *rest, **named: getattr(client, method)(*rest, **named)


@contextmanager
def _async(url: str, **settings: Any) -> Iterator[Callable[..., Any]]:
    with asyncio.Runner() as runner:

        async def make() -> leeway.AsyncClient:
            return leeway.AsyncClient(url, **settings)

        client = runner.run(make())
        yield lambda method, *rest, **named: runner.run(getattr(client, method)(*rest, **named))
        runner.run(client.close())


both = pytest.mark.parametrize("connect", [_sync, _async], ids=["Client", "AsyncClient"])
Connect = Callable[..., Any]


@both
def test_a_prediction_has_its_model_its_ids_and_its_times(connect: Connect, shipped: Server) -> None:
    with connect(shipped.url, timeout_s=30) as call:
        answer = call("predict", "penguins", [PENGUIN, {**PENGUIN, "sex": None}], request_id="one", priority="high")
        assert [row["label"] for row in answer] == ["Gentoo", "Gentoo"]
        assert (answer.model.name, answer.model.version, len(answer.prediction_ids)) == ("penguins", 2, 2)
        assert answer.request_id == "one"
        assert set(answer.stages_ms) == {"net", "pre", "queue", "infer", "post"}
        assert call("predict", "penguins", [PENGUIN], version=1).model.version == 1
        assert call("predict", None, [[0.0] * 64]).model.name == "digits"
        assert {model["name"] for model in call("models")} >= {"digits", "penguins"}
        assert call("schema", "penguins")["example"]["instances"]
        assert call("is_ready")


@both
def test_the_outcome_of_a_prediction_is_joined_once(connect: Connect, shipped: Server) -> None:
    with connect(shipped.url, timeout_s=30) as call:
        predicted = call("predict", "penguins", [PENGUIN]).prediction_ids[0]
        outcome = leeway.Outcome(predicted, label="Gentoo")
        assert call("feedback", [outcome]).results["joined"] == 1
        again = call("feedback", [outcome])
        assert again.results["duplicate"] == 1 and again.problems[0]["result"] == "duplicate"
        assert call("feedback", [leeway.Outcome("nonsense", value=1.5)]).results["joined"] == 0


@both
def test_a_wrong_request_is_an_error_of_its_own_that_says_where(connect: Connect, shipped: Server) -> None:
    with connect(shipped.url, timeout_s=30) as call:
        with pytest.raises(leeway.InvalidInput, match=r"instances\[0\].bill_length_mm") as wrong:
            call("predict", "penguins", [{**PENGUIN, "bill_length_mm": "46,5"}])
        assert (wrong.value.status, wrong.value.kind) == (400, "invalid-input")
        assert wrong.value.request_id
        with pytest.raises(leeway.NotFound, match="there is no model"):
            call("predict", "penguinz", [PENGUIN])
        with pytest.raises(ValueError, match="printable ASCII"):
            call("predict", "penguins", [PENGUIN], routing_key="a\r\nx: y")


@contextmanager
def answering(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that sends these answers, one for each request, and closes after None. Also returns the requests."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []
    left = list(answers)

    def serve() -> None:
        while left:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while left:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        received = connection.recv(1 << 16)
                        if not received:
                            break
                        request += received
                    if not request:
                        break
                    head, _, body = request.partition(b"\r\n\r\n")
                    length = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    while length and len(body) < length[0]:
                        body += connection.recv(1 << 16)
                    requests.append(head)
                    answer = left.pop(0)
                    if answer is None:
                        break
                    connection.sendall(answer)
                    if answer.startswith(b"HTTP/1.0"):
                        break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    listener.close()


def answer(status: str, document: Any, *headers: str) -> bytes:
    body = json.dumps(document).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


GOOD = {"predictions": [1], "model": {"name": "m", "version": 1, "sha256": "00"}, "prediction_ids": ["a"]}
OVERLOADED = {"type": "urn:leeway:problem:overloaded", "title": "Overloaded", "status": 503, "detail": "busy"}


@both
def test_a_refused_request_is_sent_again_when_the_server_says(connect: Connect) -> None:
    refused = answer("503 Service Unavailable", OVERLOADED, "Retry-After: 1")
    with answering(refused, answer("200 OK", GOOD)) as (url, requests), connect(url) as call:
        begin = time.monotonic()
        assert call("predict", "m", [1]).predictions == [1]
        assert 1.0 <= time.monotonic() - begin < 5.0
        assert len(requests) == 2 and b"x-request-timeout-ms" in requests[1].lower()


@both
def test_no_wait_goes_beyond_the_time_of_the_call(connect: Connect) -> None:
    refused = answer("503 Service Unavailable", OVERLOADED, "Retry-After: 30")
    with answering(refused, answer("200 OK", GOOD)) as (url, requests), connect(url, timeout_s=2) as call:
        begin = time.monotonic()
        with pytest.raises(leeway.Refused) as refusal:
            call("predict", "m", [1])
        assert (refusal.value.retry_after_s, refusal.value.kind, len(requests)) == (30.0, "overloaded", 1)
        assert time.monotonic() - begin < 1.5


@both
def test_a_request_is_not_sent_again_where_that_would_not_help(connect: Connect) -> None:
    for status, kind in [("503 Service Unavailable", leeway.Refused), ("504 Gateway Timeout", leeway.DeadlineExceeded),
                         ("500 Internal Server Error", leeway.ServerFailed), ("401 Unauthorized", leeway.Unauthorized)]:
        with answering(answer(status, OVERLOADED), answer("200 OK", GOOD)) as (url, requests), connect(url) as call:
            with pytest.raises(kind):
                call("predict", "m", [1])
            assert len(requests) == 1


@both
def test_an_answer_of_a_proxy_is_a_problem_without_a_document(connect: Connect) -> None:
    page = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<html"
    with answering(page) as (url, _), connect(url, retries=Retries(most=0)) as call:
        with pytest.raises(leeway.Refused, match="502 error: <html"):
            call("predict", "m", [1])


@both
def test_a_connection_that_was_closed_meanwhile_is_opened_again(connect: Connect) -> None:
    with answering(answer("200 OK", GOOD), None, answer("200 OK", GOOD)) as (url, requests):
        with connect(url, retries=Retries(most=0)) as call:
            assert call("predict", "m", [1]) and call("predict", "m", [1])
            assert len(requests) == 3


@both
def test_a_connection_is_used_again(connect: Connect, shipped: Server) -> None:
    with connect(shipped.url, retries=Retries(most=0), timeout_s=30) as call:
        assert all(call("is_ready") and call("predict", "penguins", [PENGUIN]) for _ in range(3))


@both
def test_an_answer_that_breaks_off_is_no_answer(connect: Connect) -> None:
    half = answer("200 OK", GOOD).replace(b"HTTP/1.1", b"HTTP/1.0")[:-5]
    with answering(half) as (url, _), connect(url, retries=Retries(most=0)) as call:
        with pytest.raises(leeway.Unreachable):
            call("predict", "m", [1])


@both
def test_chunks_and_a_body_until_the_end_are_read(connect: Connect) -> None:
    body = json.dumps(GOOD).encode()
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:])) + b"0\r\nx: y\r\n\r\n"
    until_end = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + body
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" + answer("200 OK", GOOD)
    for whole in (chunked, interim, until_end):
        with answering(whole) as (url, _), connect(url, retries=Retries(most=0)) as call:
            assert call("predict", "m", [1]).predictions == [1]


@both
def test_a_server_that_hangs_or_is_not_there_is_an_error_in_time(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3) as call:
            begin = time.monotonic()
            with pytest.raises(leeway.Unreachable, match="no answer within timeout_s = 0.3"):
                call("predict", "m", [1])
            assert time.monotonic() - begin < 3
        port = silent.getsockname()[1]
    with connect(f"http://127.0.0.1:{port}", retries=Retries(most=1)) as call:
        with pytest.raises(leeway.Unreachable):
            call("predict", "m", [1])
        assert not call("is_ready")


def test_a_cancelled_call_gives_no_connection_to_the_next_one(shipped: Server) -> None:
    async def main() -> None:
        async with leeway.AsyncClient(shipped.url, timeout_s=30) as client:
            for delay in (0.0, 0.001, 0.002, 0.004):
                call = asyncio.create_task(client.predict("penguins", [PENGUIN] * 200))
                await asyncio.sleep(delay)
                call.cancel()
                assert len(await client.predict("penguins", [PENGUIN] * 3)) == 3
            answers = await asyncio.gather(*(client.predict("penguins", [PENGUIN] * rows) for rows in range(1, 20)))
            assert [len(answer) for answer in answers] == list(range(1, 20))

    asyncio.run(main())


def test_threads_share_a_client(shipped: Server) -> None:
    lengths: dict[int, int] = {}
    with shipped.client() as client:

        def ask(rows: int) -> None:
            lengths[rows] = len(client.predict("penguins", [PENGUIN] * rows))

        threads = [threading.Thread(target=ask, args=(rows,)) for rows in range(1, 17)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert lengths == {rows: rows for rows in range(1, 17)}


def test_waits_grow_and_end() -> None:
    retries, broken = Retries(most=2, backoff_s=0.1), leeway.Unreachable("broken")
    for tries, longest in ((1, 0.1), (2, 0.2)):
        waits = [retries.wait_s(broken, tries, 60) for _ in range(100)]
        assert all(wait is not None and 0 <= wait <= longest for wait in waits)
    assert retries.wait_s(broken, 3, 60) is None
    assert retries.wait_s(leeway.InvalidInput(400, {}), 1, 60) is None
    asked = leeway.Refused(503, {}, 2.0)
    assert retries.wait_s(asked, 1, 1.9) is None and (retries.wait_s(asked, 1, 60) or 0) >= 2.0


def test_an_address_is_a_url() -> None:
    address = Address.parse("https://models.example/leeway/")
    assert (address.port, address.prefix, address.host_header()) == (443, "/leeway", "models.example")
    assert Address.parse("http://[::1]:8080").host_header() == "[::1]:8080"
    for wrong in ("127.0.0.1:8080", "ftp://x", "http://"):
        with pytest.raises(ValueError, match="is not the URL of a server"):
            Address.parse(wrong)
    with pytest.raises(ValueError, match="timeout_s"):
        Deadline(0)
