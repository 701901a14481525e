"""Outgoing HTTP to addresses that clients name. Imports nothing of ours."""
