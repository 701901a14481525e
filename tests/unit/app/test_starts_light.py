"""The API starts without torch: importing it would keep the port closed for seconds."""

import subprocess
import sys


def test_importing_the_api_imports_no_torch() -> None:
    program = (
        "import sys, app.__main__, app.jobs.prepare_drawing\n"
        "from app.settings import ApiSettings\n"
        "from models import generators\n"
        "for name in generators.available(): app.jobs.prepare_drawing.view_generator(name, ApiSettings())\n"
        "heavy = {'torch', 'torchvision', 'open_clip', 'taming', 'diffusers', 'transformers'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
