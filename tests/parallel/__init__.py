"""Tests of more than one process."""
