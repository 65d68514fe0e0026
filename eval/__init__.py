"""Benchmarks: what is measured and how (import name scal3r_eval)."""
