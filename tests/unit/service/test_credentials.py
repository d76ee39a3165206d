"""Where a client's token comes from."""

from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.credentials import find_token, write_token
from service.errors import ApiError


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
