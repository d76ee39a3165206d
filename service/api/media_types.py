"""Content negotiation: which media type of a reconstruction a client's Accept header asks for."""

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_list_header, parse_options_header

from service.errors import NotAcceptableError
from service.schemas.models import MediaType

__all__ = ["choose_media_type"]


def choose_media_type(accept: str) -> MediaType:
    """The media type that an Accept header prefers (RFC 9110, 12.5.1); an empty one accepts all.

    Raises:
        NotAcceptableError: the client accepts none.
    """
    ranges = MIMEAccept(_media_range(item) for item in parse_list_header(accept or "*/*"))
    # The most specific range that matches decides, even when it says q=0.
    best = max(MediaType, key=ranges.quality)
    if ranges.quality(best) <= 0:
        raise NotAcceptableError(f"this address answers with {', '.join(MediaType)}")
    return best


def _media_range(item: str) -> tuple[str, float]:
    """One media range and its weight. Werkzeug's own parser would drop a range whose weight is not a number."""
    media_range, parameters = parse_options_header(item)
    try:
        return media_range, float(parameters.get("q", "1"))
    except ValueError:
        return media_range, 1.0
