"""The ledger at size: ingestion against the database's own bulk path, and looking subjects up."""

import sqlite3
import statistics
import time

import psycopg

import postgres
from servers import Forgetd

TITLE = "The ledger at size"

TABLES = ("samples", "sample_contents")


def write_csv(path, count):
    with open(path, "w", encoding="ascii") as file:
        file.write("person,sample,label,a,b,c,d\n")
        for number in range(count):
            file.write(f"p{number // 5},s{number},{number % 2},{number % 97},{number % 89},"
                       f"{number % 83},{number % 79}\n")


def raw_sqlite(bench, ledger):
    """The same rows into the same tables and indices: prepared inserts in one transaction."""
    file = bench.folder / "bulk.sqlite"
    file.unlink(missing_ok=True)
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("ATTACH ? AS ledger", (f"file:{ledger}?mode=ro",))
    for (sql,) in database.execute(
            "SELECT sql FROM ledger.sqlite_master WHERE tbl_name IN (?, ?) AND sql IS NOT NULL"
            " ORDER BY type DESC", TABLES).fetchall():
        database.execute(sql)
    rows = {table: database.execute(f"SELECT * FROM ledger.{table} ORDER BY rowid").fetchall()
            for table in TABLES}
    started = time.monotonic()
    database.execute("BEGIN")
    for table in TABLES:
        places = ", ".join("?" * len(rows[table][0]))
        database.executemany(f"INSERT INTO {table} VALUES ({places})", rows[table])
    database.execute("COMMIT")
    return time.monotonic() - started


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


def measured(bench, database, bulk_path, raw, database_url=None):
    count = bench.ingested
    path = bench.folder / "ledger.csv"
    write_csv(path, count)
    service = Forgetd(bench.forgetd, bench.folder / "ledger", database_url)
    own = service.run("ingest", "--model", "people", "--file", path, "--subject", "person",
                      "--sample-id", "sample")
    raw = raw(service)
    path.unlink()
    seconds = []
    with service.serve() as server:
        start = server.wait("/v2/health/live")
        for number in range(1_000):
            person = number * 7_919 % (count // 5)
            started = time.monotonic()
            found = server.json("POST", "/v1/models/people/lineage",
                                {"subjects": [f"p{person}"]})
            seconds.append(time.monotonic() - started)
            assert len(found["targets"][0]["samples"]) == 5
        memory = server.memory_mb()
    seconds = sorted(seconds[100:])
    return (f"| {database} | {count:,} | {count / own:,.0f} | {bulk_path} | {count / raw:,.0f} | "
            f"{raw / own:.0%} | {statistics.median(seconds) * 1e3:.2f} ms | "
            f"{seconds[int(.99 * len(seconds))] * 1e3:.2f} ms | {start * 1e3:.0f} ms | "
            f"{memory:.0f} MB |")


def measure(bench):
    def sqlite(service):
        return raw_sqlite(bench, service.folder / "data" / "forgetd.sqlite")

    rows = ["| database | rows | ingested/s | its bulk path | rows/s | share | lookup by subject, "
            "p50 | p99 | start | memory |", "|---|---|---|---|---|---|---|---|---|---|",
            measured(bench, "SQLite", "prepared inserts, one transaction", sqlite)]
    with postgres.server() as url:
        rows.append(measured(bench, "PostgreSQL", "COPY", lambda _: raw_postgres(url), url))
    return [*rows, "", "CSV. The bulk path writes the same rows into the same tables and indices "
            "(samples and contents, but not the keys), without reading, pseudonyms, sealing and "
            "tombstones. The lookup is a request over HTTP.", ""]
