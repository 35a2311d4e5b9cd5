"""The ledger at size: ingestion against the database's own bulk path, and looking subjects up."""

import sqlite3
import statistics
import time

from servers import Forgetd

TITLE = "The ledger at size"


def write_csv(path, count):
    with open(path, "w", encoding="ascii") as file:
        file.write("person,sample,label,a,b,c,d\n")
        for number in range(count):
            file.write(f"p{number // 5},s{number},{number % 2},{number % 97},{number % 89},"
                       f"{number % 83},{number % 79}\n")


def raw_bulk(bench, ledger):
    """The same rows into the same tables and indices: prepared inserts in one transaction."""
    file = bench.folder / "bulk.sqlite"
    file.unlink(missing_ok=True)
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("ATTACH ? AS ledger", (f"file:{ledger}?mode=ro",))
    tables = ("samples", "sample_contents")
    for (sql,) in database.execute(
            "SELECT sql FROM ledger.sqlite_master WHERE tbl_name IN (?, ?) AND sql IS NOT NULL"
            " ORDER BY type DESC", tables).fetchall():
        database.execute(sql)
    rows = {table: database.execute(f"SELECT * FROM ledger.{table} ORDER BY rowid").fetchall()
            for table in tables}
    started = time.monotonic()
    database.execute("BEGIN")
    for table in tables:
        places = ", ".join("?" * len(rows[table][0]))
        database.executemany(f"INSERT INTO {table} VALUES ({places})", rows[table])
    database.execute("COMMIT")
    return time.monotonic() - started


def measure(bench):
    count = bench.ingested
    path = bench.folder / "ledger.csv"
    write_csv(path, count)
    service = Forgetd(bench.forgetd, bench.folder / "ledger")
    own = service.run("ingest", "--model", "people", "--file", path, "--subject", "person",
                      "--sample-id", "sample")
    raw = raw_bulk(bench, service.folder / "data" / "forgetd.sqlite")
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
    return ["| rows | ingested/s | prepared inserts, one transaction | share | lookup by "
            "subject, p50 | p99 | start | memory |", "|---|---|---|---|---|---|---|---|",
            f"| {count:,} | {count / own:,.0f} | {count / raw:,.0f} | {raw / own:.0%} | "
            f"{statistics.median(seconds) * 1e3:.2f} ms | {seconds[int(.99 * len(seconds))] * 1e3:.2f} ms "
            f"| {start * 1e3:.0f} ms | {memory:.0f} MB |", "",
            "CSV on SQLite; the prepared inserts write the same rows into the same tables and "
            "indices, without reading, pseudonyms and tombstones. The lookup is a request over HTTP.",
            ""]
