"""Indexing, checking, previewing and making data (import name scal3r_data_tools)."""
