"""The job database: tables, transactions, queries, leases and the webhook outbox. The only importer of sqlalchemy."""
