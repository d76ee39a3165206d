"""The HTTP API: routes, what they depend on, and how requests and errors are read and written."""
