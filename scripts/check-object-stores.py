#!/usr/bin/env python3
"""Runs the tests that need a bucket, tests/it/service/buckets.rs, against emulators on loopback.

    python3 scripts/check-object-stores.py [s3] [gcs] [azure]

S3 and Google Cloud Storage, which are the default, are played by moto: what forgetd uses of Google's
XML API is what it shares with S3. Azure is played by Azurite, which npx fetches from npm. Neither
looks at credentials. Packages come from PyPI, into a virtual environment below Cargo's target
folder. Python 3.9 or newer.
"""

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.dont_write_bytecode = True

import virtual_environment  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "azure-storage-blob==12.31.1",
    "boto3==1.44.8",
    "flask==3.1.3",
    "flask-cors==6.0.5",
    "moto[s3]==5.2.5",
]
AZURITE = "azurite@3.35.0"
# The account that Azurite has for everybody.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


def test(*names, **variables):
    """Runs those tests, which are ignored elsewhere, with these variables."""
    tests = [f"service::buckets::{name}" for name in names]
    command = ["cargo", "test", "--locked", "--test", "it", "--", "--exact", "--ignored", *tests]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True,
    )
    print(done.stdout, flush=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    if f" {len(tests)} passed" not in done.stdout:
        sys.exit(f"check-object-stores: {len(tests)} tests were to run")


TESTS = ["blobs_come_back_as_they_went_in", "a_bucket_holds_the_newest_weights_alone"]


def with_token(application):
    """moto answers nobody without a token, which a client of Google's does not send where it is told
    that none is needed."""

    def answer(environment, start):
        if environment.get("HTTP_AUTHORIZATION", "Bearer").strip() == "Bearer":
            environment["HTTP_AUTHORIZATION"] = "Bearer nobody"
        return application(environment, start)

    return answer


@contextlib.contextmanager
def moto():
    """The address of a server with a bucket, and one that keeps versions."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = with_token(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.port}"
    s3 = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1",
        aws_access_key_id="key", aws_secret_access_key="secret",
    )
    for bucket in ("weights", "versions"):
        s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    yield address
    server.shutdown()


def check_s3():
    with moto() as address:
        test(
            *TESTS, "a_bucket_that_keeps_versions_is_refused", "a_bucket_that_is_not_there_is_refused",
            AWS_ENDPOINT_URL=address, AWS_ALLOW_HTTP="true", AWS_REGION="us-east-1",
            AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret",
            FORGETD_TEST_BUCKET="s3://weights", FORGETD_TEST_VERSIONED_BUCKET="s3://versions",
        )


def check_gcs():
    with moto() as address, tempfile.NamedTemporaryFile("w", suffix=".json") as account:
        nobody = {"client_email": "", "private_key": "", "private_key_id": ""}
        json.dump({"gcs_base_url": address, "disable_oauth": True, **nobody}, account)
        account.flush()
        test(*TESTS, GOOGLE_SERVICE_ACCOUNT=account.name, FORGETD_TEST_BUCKET="gs://weights")


@contextlib.contextmanager
def azurite():
    """Its address; it ends with the block."""
    command = ["npx", "--yes", "--package", AZURITE, "azurite-blob", "--inMemoryPersistence"]
    command += ["--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        lines = (ADDRESS.search(line) for line in server.stdout if "on http" in line)
        address = next(filter(None, lines), None)
        if address is None:
            sys.exit("check-object-stores: Azurite did not start")
        yield address.group()
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def check_azure():
    from azure.storage.blob import BlobServiceClient

    with azurite() as address:
        account = BlobServiceClient(f"{address}/{AZURE_ACCOUNT}", credential=AZURE_KEY)
        account.create_container("weights")
        test(
            *TESTS, AZURE_STORAGE_USE_EMULATOR="true", AZURITE_BLOB_STORAGE_URL=address,
            FORGETD_TEST_BUCKET="az://weights",
        )


CHECKS = {"s3": check_s3, "gcs": check_gcs, "azure": check_azure}


def main():
    stores = sys.argv[1:] or ["s3", "gcs"]
    for store in stores:
        if store not in CHECKS:
            sys.exit(f"check-object-stores: {store} is none of {', '.join(CHECKS)}")
    virtual_environment.enter(PACKAGES)
    for store in stores:
        print(f"\n== weights in {store}", flush=True)
        CHECKS[store]()


if __name__ == "__main__":
    main()
