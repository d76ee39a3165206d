"""Pages of other origins: those that the setting names may ask, with a token in a header, and no others."""

from collections.abc import Mapping

import httpx
import pytest

from service.api.dependencies import AppContext
from service.scopes import Scope
from tests.unit.service.conftest import MakeApp, Serve

ALLOWED = "https://lab.example"
SAME_SITE = "http://127.0.0.1:3000"
"""Another port of the service's own host: a browser sends it cookies, SameSite=Strict or not."""
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
}
SPEC = {"kind": "train", "name": "a"}


class Lab:
    """A service that pages of two other origins may use, and a token for it."""

    def __init__(self, make_app: MakeApp, serve: Serve) -> None:
        app = make_app(tokens=True, cors_origins=(ALLOWED, SAME_SITE))
        context = app.state.context
        assert isinstance(context, AppContext)
        _, self.secret = context.tokens.create("ada", [Scope.SUBMIT])
        self.client = serve(app)
        self.bearer = {"Authorization": f"Bearer {self.secret}"}

    def ask(self, method: str, path: str, headers: Mapping[str, str], json: object = None) -> httpx.Response:
        """An answer to a request that carries no cookie of an earlier one."""
        self.client.cookies.clear()
        return self.client.request(method, path, headers=headers, json=json)


@pytest.fixture
def lab(make_app: MakeApp, serve: Serve) -> Lab:
    return Lab(make_app, serve)


def test_a_page_of_an_allowed_origin_may_ask_with_a_token(lab: Lab) -> None:
    preflight = lab.ask("OPTIONS", "/jobs", {"Origin": ALLOWED, **PREFLIGHT})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ALLOWED
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "idempotency-key", "last-event-id"))
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, PATCH, DELETE"
    made = lab.ask("POST", "/jobs", {"Origin": ALLOWED, "Sec-Fetch-Site": "cross-site", **lab.bearer}, SPEC)
    assert made.status_code == 201
    for answer in (made, lab.ask("GET", "/jobs", {"Origin": ALLOWED, **lab.bearer})):
        assert answer.headers["access-control-allow-origin"] == ALLOWED, "named, and not *"
        assert "Origin" in answer.headers["vary"], "caches must not give it to another origin"
        exposed = answer.headers["access-control-expose-headers"]
        assert {"Location", "Retry-After", "Seqae-Warnings", "X-Request-ID"} == set(exposed.split(", "))


def test_it_may_read_why_it_is_refused(lab: Lab) -> None:
    answer = lab.ask("GET", "/jobs", {"Origin": ALLOWED})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == ALLOWED


def test_it_never_comes_with_the_pages_cookie(lab: Lab) -> None:
    """From another port of the same host the browser sends the cookie, and a POST without a body asks nobody before:
    then an allowed page would act for whoever has entered a token here."""
    job = lab.ask("POST", "/jobs", lab.bearer, SPEC).json()["id"]
    entered = lab.ask("POST", "/session", {"Origin": str(lab.client.base_url)}, {"token": lab.secret})
    cookie = entered.headers["set-cookie"].partition(";")[0]
    assert lab.ask("GET", "/jobs", {"Cookie": cookie}).status_code == 200
    for origin in (ALLOWED, SAME_SITE):
        page = {"Origin": origin, "Sec-Fetch-Site": "same-site", "Cookie": cookie}
        assert lab.ask("POST", f"/jobs/{job}/cancel", page).status_code == 401
        answer = lab.ask("GET", "/jobs", page)
        assert answer.status_code == 401
        assert "access-control-allow-credentials" not in answer.headers
        assert "access-control-allow-credentials" not in lab.ask("OPTIONS", "/jobs", {**page, **PREFLIGHT}).headers
        assert lab.ask("GET", "/jobs", {**page, **lab.bearer}).status_code == 200
    own = {"Origin": str(lab.client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin", "Cookie": cookie}
    assert lab.ask("POST", f"/jobs/{job}/cancel", own).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://lab.example", "https://lab.example:444", "https://x.lab.example", "null"]
)
def test_a_page_of_another_origin_gets_nothing(lab: Lab, origin: str) -> None:
    preflight = lab.ask("OPTIONS", "/jobs", {"Origin": origin, **PREFLIGHT})
    assert preflight.status_code == 403
    made = lab.ask("POST", "/jobs", {"Origin": origin, **lab.bearer}, SPEC)
    assert made.status_code == 403
    for answer in (preflight, made, lab.ask("GET", "/jobs", {"Origin": origin, **lab.bearer})):
        assert "access-control-allow-origin" not in answer.headers
