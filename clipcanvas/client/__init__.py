"""The typed Python clients of the HTTP API. May import no other folder of clipcanvas."""
