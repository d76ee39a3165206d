"""Consistent copies of the job database as one SQLite file, whatever it runs on, and their return into a new one."""
