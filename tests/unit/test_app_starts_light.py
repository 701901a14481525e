"""The API starts without torch: importing it would keep the port closed for seconds."""

import subprocess
import sys


def test_importing_the_api_imports_no_torch() -> None:
    program = (
        "import sys, app.__main__, app.drawings\n"
        "from app.settings import ApiSettings\n"
        "from models import generators\n"
        "for name in generators.available(): app.drawings.view_generator(name, ApiSettings())\n"
        "heavy = {'torch', 'torchvision', 'open_clip', 'taming'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


def test_a_key_is_made_on_the_command_line() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "app", "key", "shop"], check=True, timeout=50, capture_output=True, text=True
    )
    assert made.stdout.startswith("cc_")
    assert "CLIPCANVAS_API_KEYS='[{" in made.stdout
