"""Indexes: rows that name sequences and where their files lie."""
