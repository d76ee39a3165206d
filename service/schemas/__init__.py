"""Wire models: what the API takes and answers, as pydantic models. The client imports these and no database."""
