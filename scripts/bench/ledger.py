"""The ledger at size: ingestion against the database's own bulk path, and looking subjects up."""

import os
import sqlite3
import statistics
import time

import psycopg
import pyarrow
import pyarrow.csv
import pyarrow.parquet

import postgres
from servers import Forgetd

TITLE = "The ledger at size"

TABLES = ("samples", "sample_contents")
CHUNK = 100_000
# The first tenth warms.
LOOKUPS = 3_000


def rows_of(numbers):
    return {"person": [f"p{number // 5}" for number in numbers],
            "sample": [f"s{number}" for number in numbers],
            "label": [str(number % 2) for number in numbers],
            **{name: [float(number % modulus) for number in numbers]
               for name, modulus in (("a", 97), ("b", 89), ("c", 83), ("d", 79))}}


def write(path, count):
    chunks = (pyarrow.table(rows_of(range(first, min(first + CHUNK, count))))
              for first in range(0, count, CHUNK))
    writer = None
    for chunk in chunks:
        if writer is None:
            make = pyarrow.csv.CSVWriter if path.suffix == ".csv" else pyarrow.parquet.ParquetWriter
            writer = make(path, chunk.schema)
        writer.write_table(chunk)
    writer.close()


def raw_sqlite(bench, ledger):
    """The same rows into the same tables and indices: prepared inserts in one transaction."""
    file = bench.folder / "bulk.sqlite"
    file.unlink(missing_ok=True)
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    # As `forgetd ingest` has it.
    database.execute("PRAGMA cache_size = -262144")
    database.execute("ATTACH ? AS ledger", (f"file:{ledger}?mode=ro",))
    for (sql,) in database.execute(
            "SELECT sql FROM ledger.sqlite_master WHERE tbl_name IN (?, ?) AND sql IS NOT NULL"
            " ORDER BY type DESC", TABLES).fetchall():
        database.execute(sql)
    seconds = 0
    database.execute("BEGIN")
    for table in TABLES:
        rows = database.execute(f"SELECT * FROM ledger.{table} ORDER BY rowid")
        places = ", ".join("?" * len(rows.description))
        while chunk := rows.fetchmany(CHUNK):
            started = time.monotonic()
            database.executemany(f"INSERT INTO {table} VALUES ({places})", chunk)
            seconds += time.monotonic() - started
    started = time.monotonic()
    database.execute("COMMIT")
    seconds += time.monotonic() - started
    database.close()
    file.unlink()
    return seconds


def raw_postgres(url):
    """The same rows into the same tables and indices: COPY, in one transaction."""
    with psycopg.connect(url) as database:
        copies = {}
        for table in TABLES:
            with database.cursor().copy(f"COPY {table} TO STDOUT (FORMAT binary)") as copy:
                copies[table] = b"".join(copy)
            database.execute(f"CREATE TABLE raw_{table} (LIKE {table} INCLUDING ALL)")
        database.commit()
        started = time.monotonic()
        for table, rows in copies.items():
            with database.cursor().copy(f"COPY raw_{table} FROM STDIN (FORMAT binary)") as copy:
                copy.write(rows)
        database.commit()
        return time.monotonic() - started


def measured(bench, count, kind, database, bulk_path, raw, database_url=None):
    path = bench.folder / f"ledger.{kind.lower()}"
    write(path, count)
    service = Forgetd(bench.forgetd, bench.folder / "ledger", database_url)
    own = service.run("ingest", "--model", "people", "--file", path, "--subject", "person",
                      "--sample-id", "sample")
    bulk = raw(service)
    path.unlink()
    if database_url:
        # What the server does by itself some minutes after such an ingestion.
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
    # Not while the disk is still busy with what was written.
    os.sync()
    seconds = []
    with service.serve() as server:
        start = server.wait("/v2/health/live")
        for number in range(LOOKUPS):
            person = number * 7_919 % (count // 5)
            started = time.monotonic()
            found = server.json("POST", "/v1/models/people/lineage",
                                {"subjects": [f"p{person}"]})
            seconds.append(time.monotonic() - started)
            assert len(found["targets"][0]["samples"]) == 5
        memory = server.memory_mb()
    seconds = sorted(seconds[LOOKUPS // 10:])
    return (f"| {kind} | {database} | {count:,} | {count / own:,.0f} | {bulk_path} | {count / bulk:,.0f} | "
            f"{bulk / own:.0%} | {statistics.median(seconds) * 1e3:.2f} ms | "
            f"{seconds[int(.99 * len(seconds))] * 1e3:.2f} ms | {start * 1e3:.0f} ms | "
            f"{memory:.0f} MB |")


def measure(bench):
    def sqlite(service):
        return raw_sqlite(bench, service.folder / "data" / "forgetd.sqlite")

    rows = ["| file | database | rows | ingested/s | its bulk path | rows/s | share | lookup by "
            "subject, p50 | p99 | start | memory |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    few, *many = bench.ingested
    for count, kind in ((few, "CSV"), (few, "Parquet"), *((count, "CSV") for count in many)):
        rows.append(measured(bench, count, kind, "SQLite", "prepared inserts, one transaction",
                             sqlite))
    with postgres.server() as url:
        rows.append(measured(bench, few, "CSV", "PostgreSQL", "COPY", lambda _: raw_postgres(url),
                             url))
    return [*rows, "", "The bulk path writes the same rows into the same tables and indices "
            "(samples and contents, but not the keys), without reading, pseudonyms, sealing and "
            "tombstones. The lookup is a request over HTTP.", ""]
