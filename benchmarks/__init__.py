"""Benchmarks: each file answers one question and prints a table. May import every package."""
