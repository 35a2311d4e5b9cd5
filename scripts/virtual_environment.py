"""Packages from PyPI for the scripts beside this one, each in a virtual environment of its own below
Cargo's target folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IN_ENVIRONMENT = "FORGETD_IN_ENVIRONMENT"


def enter(packages):
    """Runs the calling script again with the packages that it needs, unless it has been."""
    script = Path(sys.argv[0]).resolve()
    if os.environ.pop(IN_ENVIRONMENT, None) == script.stem:
        return
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    folder = target / f"{script.stem}-venv"
    python = folder / "bin" / "python"
    stamp = folder / "packages.json"
    wanted = json.dumps(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)])
        if made.returncode != 0:
            sys.exit(f"{script.stem}: python3 cannot make virtual environments (python3-venv?)")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, *packages], stdin=subprocess.DEVNULL).returncode != 0:
            sys.exit(f"{script.stem}: the packages could not be installed from PyPI")
        stamp.write_text(wanted)
    os.environ[IN_ENVIRONMENT] = script.stem
    os.execv(python, [str(python), str(script), *sys.argv[1:]])
