"""Tests of reconstruction."""
