"""Tests of the house: settings, command line, packaging, floors."""
