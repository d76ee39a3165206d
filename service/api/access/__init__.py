"""Who may ask for what: authentication, scopes of routes, rate limits, and the audit log of requests."""
