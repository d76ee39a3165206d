"""Wire models of the API, as pydantic models: what requests and answers hold. They know no database."""
