"""Lint the Lua scripts as Redis gets them: `python -m tests.support.check_lua`, part of `make check`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs.record.record import script
from storage.collections.vector_sets import vectors_script

GLOBALS = ("redis", "cjson", "cmsgpack", "ARGV", "KEYS")


def main() -> int:
    """0: they are right, or there is no luacheck here, which a line then says."""
    if shutil.which("luacheck") is None:
        print("luacheck is not installed: the Lua scripts were not checked (apt install lua-check)")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for name, source in {"record": script(), "vectors": vectors_script()}.items():
            Path(folder, f"{name}.lua").write_text(source, encoding="utf-8")
        command = ["luacheck", "--quiet", "--std", "lua51", "--max-line-length", "120", "--globals", *GLOBALS]
        return subprocess.run([*command, "--", folder]).returncode


if __name__ == "__main__":
    sys.exit(main())
