"""The docs as a site: it builds without a warning, and its pages load nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site]
    subprocess.run(command, cwd=ROOT, check=True, timeout=50)
    pages = [path for path in site.rglob("*.html") if path.name != "404.html"]
    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
    loads = (
        r'(?:src|srcset)="(https?:)?//|<link [^>]*href="https?://(?!.*rel="canonical")|@import|url\(https?:'
    )
    for page in site.rglob("*.html"):
        assert not re.search(loads, page.read_text()), page
