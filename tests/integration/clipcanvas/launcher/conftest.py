"""What the tests of the launcher share."""

from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether it runs: an ended process that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
