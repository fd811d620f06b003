"""Answers SQL by DuckDB: a line of JSON in, {"sql": ...}, a line of JSON out, {"seconds": ..., "rows": [[...], ...]} or
{"error": ...}. Cells are text as Postgres shows them, or null."""

import datetime
import json
import sys
import time

import duckdb


def shown(cell):
    if cell is None:
        return None
    if isinstance(cell, bool):
        return "t" if cell else "f"
    if isinstance(cell, bytes):
        return "\\x" + cell.hex()
    if isinstance(cell, datetime.datetime) and cell.microsecond:
        return str(cell).rstrip("0")
    return str(cell)


connection = duckdb.connect()
# Two threads, as ours has two processors; all else as it comes.
connection.execute("SET threads = 2")
connection.execute("SET enable_progress_bar = false")
for line in sys.stdin:
    try:
        begun = time.perf_counter()
        rows = connection.execute(json.loads(line)["sql"]).fetchall()
        seconds = time.perf_counter() - begun
        answer = {"seconds": seconds, "rows": [[shown(cell) for cell in row] for row in rows]}
    except duckdb.Error as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
