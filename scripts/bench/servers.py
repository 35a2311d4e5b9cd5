"""Starts and stops what is measured, and puts load on it; everything on loopback."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent


class Server:
    """A process that answers HTTP on a port of its own."""

    def __init__(self, command, environment=None):
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})}, text=True, start_new_session=True)
        self.port = None

    def wait(self, path, body=None, status=200):
        """Until `path` answers with `status`; seconds since the start."""
        while time.monotonic() - self.started < 120:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.process.args} ended with {self.process.returncode}")
            try:
                if self.request("POST" if body else "GET", path, body)[0] == status:
                    return time.monotonic() - self.started
            except OSError:
                pass
            time.sleep(0.002)
        raise SystemExit(f"{self.process.args} does not answer {path}")

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None):
        status, answer = self.request(method, path, None if body is None else json.dumps(body))
        if status >= 300:
            raise SystemExit(f"{method} {path}: {status} {answer.decode()}")
        return json.loads(answer)

    def memory_mb(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        # Some peers leave processes of their own behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def announced(command, environment=None):
    """A server of ours, which prints where it listens."""
    server = Server(command, environment)
    server.port = int(re.search(r":(\d+)\s*$", server.process.stdout.readline())[1])
    return server


def peer(script, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server([sys.executable, HERE / "peers" / script, port, *arguments])
    server.port = port
    return server


class Forgetd:
    """A data folder, and the commands over it."""

    def __init__(self, binary, folder, database_url=None):
        self.binary, self.folder = binary, pathlib.Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.environment = {"FORGETD_TELEMETRY__LOG": "error"}
        if database_url:
            self.environment["FORGETD_LEDGER__DATABASE_URL"] = database_url

    def command(self, *arguments):
        return [self.binary, "--data-dir", self.folder / "data", *arguments]

    def run(self, *arguments):
        started = time.monotonic()
        command = [str(part) for part in self.command(*arguments)]
        done = subprocess.run(command, env={**os.environ, **self.environment},
                              capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command}: {done.stderr}")
        return time.monotonic() - started

    def serve(self, environment=None):
        return announced(self.command("serve", "--listen", "127.0.0.1:0"),
                         {**self.environment, **(environment or {})})


def load(server, path, body_file, connections, seconds, threads=1, pause_ms=0, binary=None):
    """What wrk measured of one request over and over."""
    environment = {**os.environ, "BENCH_BODY": str(body_file), "BENCH_PAUSE_MS": str(pause_ms)}
    if binary:
        environment |= {"BENCH_TYPE": "application/octet-stream", "BENCH_JSON_LENGTH": str(binary)}
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "-s",
               HERE / "load.lua", f"http://127.0.0.1:{server.port}{path}"]
    done = subprocess.run([str(part) for part in command], env=environment, check=True,
                          capture_output=True, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    if measured["failed"]:
        print(f"  {measured['failed']} requests failed: {path}", file=sys.stderr)
    return measured
