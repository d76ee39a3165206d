"""The API's reference as an OpenAPI document: operations by name, examples of requests and answers."""
