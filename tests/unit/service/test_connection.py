"""What the connection of a client refuses before it sends anything, and where a request goes."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.connection import find_token, write_token
from service.errors import ApiError


def _answering(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client("http://service.test", transport=httpx.MockTransport(answer))


BAD_URLS = [
    *("", "localhost:8400", "127.0.0.1:8400", "ftp://host", "http://", "//host", "http://host:99999", "http://host:0"),
    *(
        "http://host:port",
        "http://[::1",
        "http://a b",
        "http://a\nb",
        "http://xn--a",
        f"http://{'a' * 300}",
        "http://\xad",
    ),
    *("http://host/?x=1", "http://host/#top", "http://" + "é" * 70_000),
]


@pytest.mark.parametrize("url", BAD_URLS, ids=[url[:16] for url in BAD_URLS])
def test_what_is_no_url_is_told_in_a_line(url: str) -> None:
    """F4: no scheme, a port that can't be, a name that no socket takes."""
    with pytest.raises(ApiError) as refused:
        Client(url)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "url", ["http://host", "https://münchen.de/seqae/", " http://[::1]:80 ", "http://my_service:8400"]
)
def test_addresses_of_services(url: str) -> None:
    """A service may be behind a path, and have a name with an umlaut, which sockets take in another form."""
    seen: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, json={"items": [], "next_cursor": None})

    with Client(url, transport=httpx.MockTransport(answer)) as api:
        api.list()
    assert seen[0].path.endswith("/jobs")
    assert seen[0].path.startswith("/seqae") is ("seqae/" in url)


def test_a_password_in_the_url_is_not_shown() -> None:
    with (
        pytest.raises(ApiError) as refused,
        Client("http://ann:secret@127.0.0.1:9", timeout=1) as api,
    ):
        api.list()
    assert "127.0.0.1:9" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "secret" not in api.url


@pytest.mark.parametrize("value", ["ü", "a\nb", " ", "a\t", "x" * 300])
def test_what_no_header_can_have_is_told_before_it_is_sent(value: str) -> None:
    """F4: a key with an umlaut ended in a traceback, and one with a line break could add a header."""

    def answer(_: httpx.Request) -> httpx.Response:
        pytest.fail("nothing may be sent")

    with _answering(answer) as api:
        with pytest.raises(ApiError, match="idempotency key"):
            api.submit({"name": "x"}, idempotency_key=value)
        with pytest.raises(ApiError, match="the owner"):
            api.submit({"name": "x"}, owner=value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "\ud800", object(), {1, 2}])
def test_what_json_can_not_hold_is_told(bad: object) -> None:
    """F4."""
    with _answering(lambda _: httpx.Response(200)) as api, pytest.raises(ApiError, match="can't be sent"):
        api.submit({"name": bad})


@pytest.mark.parametrize("job", ["../models", "a/b", "?x", "a b", "ü", "%2e", "#"])
def test_an_id_stays_one_segment_of_the_path(job: str) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(404, json={})

    with _answering(answer) as api:
        with pytest.raises(ApiError):
            api.get(job)
        for nothing in ("", ".", ".."):
            with pytest.raises(ApiError, match="names nothing"):
                api.get(nothing)
    (path,) = seen
    assert path.startswith("/jobs/")
    assert path.count("/") == 2
    assert not set("?# ") & set(path)


def test_the_variable_counts_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    write_token(file, "of the file")
    assert file.stat().st_mode & 0o777 == 0o600
    assert find_token({}) == ""
    assert find_token({"SEQAE_TOKEN_FILE": str(file)}) == "of the file"
    assert find_token({"SEQAE_TOKEN": "of the variable\n", "SEQAE_TOKEN_FILE": str(file)}) == "of the variable"
    with pytest.raises(FileExistsError):
        write_token(file, "another")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    file.chmod(mode)
    with pytest.raises(ApiError, match="others can read the token: `chmod 600") as raised:
        find_token({"SEQAE_TOKEN_FILE": str(file)})
    assert "secret" not in str(raised.value)


def test_what_is_no_file_of_a_token_is_refused(tmp_path: Path) -> None:
    for name, why in (("none", "can't be read"), (".", "no file|can't be read")):
        with pytest.raises(ApiError, match=why):
            find_token({"SEQAE_TOKEN_FILE": str(tmp_path / name)})
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    binary.chmod(0o600)
    with pytest.raises(ApiError, match="not ASCII"):
        find_token({"SEQAE_TOKEN_FILE": str(binary)})


def test_the_client_sends_it_with_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json=[])

    monkeypatch.setenv("SEQAE_TOKEN", "secret")
    for token in (None, "given", ""):
        with Client("http://localhost", transport=httpx.MockTransport(answer), token=token) as client:
            client.tokens()
    assert seen == ["Bearer secret", "Bearer given", None]
    with pytest.raises(ApiError, match="the token must have") as raised:
        Client("http://localhost", token="two\nlines")
    assert "two" not in str(raised.value)
