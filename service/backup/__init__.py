"""Backup of a home folder as one archive while jobs run, and its restore; run as programs of their own."""
