"""Content negotiation."""

import pytest

from service.api.media_types import choose_media_type
from service.errors import NotAcceptableError


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/gif", "image/gif"),
        ("image/*", "image/gif"),
        ("image/png", "image/png"),
        ("application/x-npz", "application/x-npz"),
        ("application/json;q=0.5, image/png", "image/png"),
        ("image/png;q=0.2, application/json;q=0.9", "application/json"),
        ("text/html, image/avif, image/png;q=0.8, */*;q=0.1", "image/png"),
        ("image/*, image/gif;q=0", "image/png"),
        ("IMAGE/GIF", "image/gif"),
        ("application/json;q=much", "application/json"),
        ("image/png, */*", "application/json"),
        ("application/json;charset=utf-8;q=0.1", "application/json"),
        ("image/png ; q=0.3 , image/gif;q=0.4", "image/gif"),
        ("image/png,,image/gif;q=0.5", "image/png"),
        ("image/*;q=0.3, */*;q=0.2, application/json;q=0", "image/gif"),
    ],
)
def test_the_best_of_what_is_accepted(accept: str, chosen: str) -> None:
    assert choose_media_type(accept) == chosen


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "application/json;q=0", "nonsense"])
def test_nothing_that_is_accepted(accept: str) -> None:
    with pytest.raises(NotAcceptableError):
        choose_media_type(accept)
