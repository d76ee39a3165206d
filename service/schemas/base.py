"""Base class of the wire models."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Schema"]


class Schema(BaseModel):
    """Base class of the wire models: frozen; fields with an alias may be given by either name.

    A field's docstring is its text in the JSON schema and at `/docs`.
    """

    model_config = ConfigDict(
        frozen=True, populate_by_name=True, protected_namespaces=(), use_attribute_docstrings=True
    )
