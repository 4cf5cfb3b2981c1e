"""Checks of services, by real sockets on this host."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paddock.agent import TaskError
from paddock.foundry import Architect, Coder, Deployer

Answer = Callable[[socket.socket, bytes], None]


class Service:
    """Answers each connection with what the test says."""

    def __init__(self, answer: Answer) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.done = threading.Event()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                try:
                    self._answer(connection, connection.recv(65536))
                except OSError:
                    continue  # the other side has had enough

    def close(self) -> None:
        self.done.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Callable[[Answer], Service]]:
    made: list[Service] = []

    def make(answer: Answer) -> Service:
        made.append(Service(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


def says(text: bytes) -> Answer:
    return lambda connection, _: connection.sendall(text)


def check(url: str, **how: Any) -> dict[str, Any]:
    return Deployer().check(url, **how)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_a_service_that_answers_is_ok(service: Callable[[Answer], Service]) -> None:
    result = check(service(says(OK)).url)
    assert (result["ok"], result["status"], result["bytes"], result["error"]) == (True, 200, 5, None)
    assert result["latency_ms"] > 0


def test_an_error_status_is_not_ok_unless_it_is_expected(service: Callable[[Answer], Service]) -> None:
    url = service(says(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")).url
    assert check(url)["error"] == "status 503"
    assert check(url, expect_status=503)["ok"]
    assert check(url, expect_status=200)["error"] == "status 503 instead of 200"


def test_a_redirect_is_followed(service: Callable[[Answer], Service]) -> None:
    def answer(connection: socket.socket, asked: bytes) -> None:
        connection.sendall(
            OK if b"/there" in asked else b"HTTP/1.1 302 F\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
        )

    result = check(service(answer).url + "/here")
    assert (result["ok"], len(result["redirects"])) == (True, 1)
    assert result["url"].endswith("/there")


@pytest.mark.parametrize(
    ("location", "words"),
    [(b"/", "circle"), (b"ftp://x/", "only http and https"), (b"file:///etc/passwd", "only http and https")],
)
def test_a_redirect_to_nowhere_good_is_told(service: Callable[[Answer], Service], location: bytes, words: str) -> None:
    url = service(says(b"HTTP/1.1 301 M\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")).url
    result = check(url + "/")
    assert not result["ok"]
    assert words in result["error"]


def test_redirects_without_end_are_cut(service: Callable[[Answer], Service]) -> None:
    def answer(connection: socket.socket, asked: bytes) -> None:
        path = asked.split()[1]
        connection.sendall(b"HTTP/1.1 302 F\r\nLocation: " + path + b"x\r\nContent-Length: 0\r\n\r\n")

    assert "more than 5 redirects" in check(service(answer).url + "/")["error"]


def test_a_body_without_end_is_cut(service: Callable[[Answer], Service]) -> None:
    def answer(connection: socket.socket, asked: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    result = check(service(answer).url)
    assert (result["ok"], result["cut"]) == (True, True)
    assert result["bytes"] < 2_000_000


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_service_that_drips_is_given_up_in_time(service: Callable[[Answer], Service], first: bytes) -> None:
    holder: list[Service] = []

    def answer(connection: socket.socket, asked: bytes) -> None:
        connection.sendall(first)
        while not holder[0].done.wait(0.02):
            connection.sendall(b"x")

    holder.append(service(answer))
    result = check(holder[0].url, timeout_s=0.3)
    assert not result["ok"]
    assert "time limit" in result["error"]


def test_a_service_that_speaks_no_http_is_told(service: Callable[[Answer], Service]) -> None:
    result = check(service(says(b"SSH-2.0-nope\r\n")).url)
    assert not result["ok"]
    assert "BadStatusLine" in result["error"]


def test_nobody_listening_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    result = check(f"http://127.0.0.1:{port}/")
    assert (result["ok"], result["status"]) == (False, None)
    assert "ConnectionRefusedError" in result["error"]


def test_plain_http_on_a_tls_url_is_told(service: Callable[[Answer], Service]) -> None:
    result = check(service(says(OK)).url.replace("http:", "https:"))
    assert not result["ok"]
    assert "TLS" in result["error"]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x", "x", "", "http://", "http://u:p@x/", "http://[::1", "http://x:99999/"]
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(TaskError) as caught:
        check(url)
    assert caught.value.code == "bad-arguments"


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 1e9, float("nan")])
def test_a_time_limit_that_makes_no_sense_is_refused(timeout_s: float) -> None:
    with pytest.raises(TaskError, match="timeout_s"):
        check("http://127.0.0.1/", timeout_s=timeout_s)


async def test_without_a_model_the_thinkers_say_so() -> None:
    for answer in (Architect().design("a bridge"), Coder().write("a loop")):
        with pytest.raises(TaskError, match="no model configured") as caught:
            await answer
        assert caught.value.code == "no-model"
