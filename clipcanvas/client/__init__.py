"""The typed Python clients of the HTTP API. Imports no other room of clipcanvas."""
