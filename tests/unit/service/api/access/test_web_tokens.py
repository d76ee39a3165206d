"""Tokens of an identity provider, whose keys the test holds."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from pydantic import ValidationError

from service.api.access.web_tokens import JwtVerifier
from service.errors import IdentityProviderError, UnauthorizedError
from service.scopes import Scope
from service.settings import Settings

PROVIDER: dict[str, Any] = {
    "jwks_url": "https://login.example/jwks",
    "jwt_issuer": "https://login.example",
    "jwt_audience": "seqae",
}


class Provider:
    """An identity provider with one key at a time, and a clock for who asks it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked = 0
        self.status = 200
        self.content: bytes | None = None
        self.rotate("first")

    def rotate(self, key_id: str) -> None:
        self.key_id = key_id
        self.key = ec.generate_private_key(ec.SECP256R1())

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True) | {"kid": self.key_id, "use": "sig"}
        content = self.content or json.dumps({"keys": [public]}).encode()
        return httpx.Response(self.status, content=content, headers={"location": "https://evil.example/"})

    def token(self, *, algorithm: str = "ES256", kid: str | None = None, **changes: object) -> str:
        claims: dict[str, Any] = {
            "iss": PROVIDER["jwt_issuer"],
            "aud": ["other", "seqae"],
            "exp": datetime.now(UTC) + timedelta(minutes=5),
            "sub": "ada",
            "scope": "openid seqae:submit",
        }
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        return jwt.encode(claims, self.key, algorithm=algorithm, headers={"kid": kid or self.key_id})


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def verifier(provider: Provider, tmp_path: Path) -> JwtVerifier:
    return make_verifier(provider, tmp_path)


def make_verifier(provider: Provider, home: Path, **changes: object) -> JwtVerifier:
    settings = Settings(home=home, **PROVIDER).model_copy(update=changes)
    return JwtVerifier(settings, httpx.MockTransport(provider), lambda: provider.seconds)


def test_claims_become_owner_and_scopes(provider: Provider, verifier: JwtVerifier) -> None:
    who = verifier.principal(provider.token())
    assert (who.owner, who.scopes, who.token_id) == ("ada", frozenset({Scope.SUBMIT}), None)
    assert verifier.principal(provider.token(scope=["seqae:admin", 7, "other"])).scopes == {Scope.ADMIN}
    assert verifier.principal(provider.token(scope=None)).scopes == set()
    assert verifier.principal(provider.token(scope={"seqae:admin": 1})).scopes == set()
    assert provider.asked == 1, "keys are kept"


def test_claims_have_other_names_by_settings(provider: Provider, tmp_path: Path) -> None:
    other = make_verifier(
        provider, tmp_path, jwt_owner_claim="email", jwt_scopes_claim="groups", jwt_scopes={"lab": Scope.PROMOTE}
    )
    who = other.principal(provider.token(email="ada@lab.example", groups=["lab", "seqae:admin"]))
    assert (who.owner, who.scopes) == ("ada@lab.example", frozenset({Scope.PROMOTE}))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"exp": datetime(2020, 1, 1, tzinfo=UTC)},
        {"exp": None},
        {"nbf": datetime(2120, 1, 1, tzinfo=UTC)},
        {"sub": ""},
        {"sub": None},
        {"sub": "a\nb"},
        {"sub": "a" * 201},
    ],
)
def test_a_token_for_others_is_refused(provider: Provider, verifier: JwtVerifier, changes: dict[str, Any]) -> None:
    with pytest.raises(UnauthorizedError):
        verifier.principal(provider.token(**changes))


def test_algorithms_are_those_of_the_settings(provider: Provider, verifier: JwtVerifier) -> None:
    """With `none`, or with the public key as the secret of an HMAC, anybody could make tokens."""
    claims = jwt.decode(provider.token(), options={"verify_signature": False})
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": "first"})
    shared = jwt.encode(claims, "k" * 64, algorithm="HS256", headers={"kid": "first"})
    for token in (unsigned, shared, "", "a.b.c", "x" * 5000, "é.é.é"):
        with pytest.raises(UnauthorizedError):
            verifier.principal(token)
    with pytest.raises(ValidationError):
        Settings(**PROVIDER | {"jwt_algorithms": ("HS256",)})
    stranger = Provider()
    with pytest.raises(UnauthorizedError):
        verifier.principal(stranger.token())


def test_a_new_key_is_found_and_an_old_one_forgotten(provider: Provider, verifier: JwtVerifier) -> None:
    old = provider.token()
    verifier.principal(old)
    provider.rotate("second")
    with pytest.raises(UnauthorizedError):
        verifier.principal(provider.token())
    assert provider.asked == 1, "not again so soon: whoever makes up ids of keys would have us ask and ask"
    provider.seconds = 11.0
    assert verifier.principal(provider.token()).owner == "ada"
    with pytest.raises(UnauthorizedError):
        verifier.principal(old)
    provider.seconds = 700.0
    verifier.principal(provider.token())
    assert provider.asked == 3, "asked again for fresh keys"


@pytest.mark.parametrize("content", [b"x" * 300_000, b"[]", b"{}", b"\xff", b'{"keys": 3}'])
def test_a_provider_that_is_away_is_an_outage(provider: Provider, tmp_path: Path, content: bytes) -> None:
    """An outage is 503: the client's token may be right."""
    token = provider.token()
    provider.content = content
    with pytest.raises(IdentityProviderError):
        make_verifier(provider, tmp_path).principal(token)
    provider.content = None
    for status in (302, 404, 500):
        provider.status = status
        with pytest.raises(IdentityProviderError):
            make_verifier(provider, tmp_path).principal(token)
    provider.status = 200
    verifier = make_verifier(provider, tmp_path)
    verifier.principal(token)
    provider.status, provider.seconds = 500, 1000.0
    assert verifier.principal(token).owner == "ada", "the keys that were there last are good for an hour"
    provider.seconds = 3700.0
    with pytest.raises(IdentityProviderError):
        verifier.principal(token)


@pytest.mark.parametrize(
    "changes",
    [{"jwks_url": "http://login.example/"}, {"jwks_url": "file:///x"}, {"jwt_issuer": ""}, {"jwt_audience": ""}],
)
def test_settings_of_a_provider_that_can_not_be_trusted_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings(**PROVIDER | changes)
    assert Settings(**PROVIDER | {"jwks_url": "http://127.0.0.1:9/jwks"}).needs_tokens
