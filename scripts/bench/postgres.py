"""A throw-away PostgreSQL server, as durable as its defaults are."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

REMEDY = ("these figures need PostgreSQL's server programs (initdb, pg_ctl): install them, on Debian "
          "with `apt-get install postgresql`")


def programs():
    folders = [pathlib.Path(part) for part in os.environ.get("PATH", "").split(os.pathsep)]
    folders += pathlib.Path("/usr/lib/postgresql").glob("*/bin")
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            # Through links: initdb looks for its siblings where it really lies.
            return (folder / "initdb").resolve().parent
    raise SystemExit(REMEDY)


@contextlib.contextmanager
def server():
    """The URL of an empty database on it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="forgetd-bench-"))
    # The server refuses to run as root.
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        shutil.chown(folder, user)

    def run(program, *arguments):
        command = [programs() / program, "-D", folder / "data", *arguments]
        subprocess.run([str(part) for part in command], check=True, user=user, cwd="/",
                       stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
    options = f"-k {folder} -c listen_addresses= -c unix_socket_permissions=0777"
    run("pg_ctl", "-l", folder / "log", "-w", "-o", options, "start")
    try:
        yield f"postgres://postgres@localhost/postgres?host={folder}"
    finally:
        run("pg_ctl", "-m", "fast", "stop")
        shutil.rmtree(folder, ignore_errors=True)
