"""Opens the Parquet files named on the command line with DuckDB and with pyarrow, checks that both see the same, and
prints a line of JSON per row. Usage: python open_parquet.py URL..."""

import json
import sys
from urllib.parse import unquote, urlparse

import duckdb
import pyarrow.parquet as parquet

paths = [unquote(urlparse(url).path) if "://" in url else url for url in sys.argv[1:]]
columns = ["_partition", "_offset", "_timestamp", "_timestamp_type", "_committed_at", "_key", "_value", "_headers"]
text = lambda value: None if value is None else bytes(value).decode("latin-1")

by_duckdb = duckdb.sql(
    "SELECT _partition, _offset, epoch_ms(_timestamp), _key, _value, len(_headers) "
    f"FROM read_parquet({paths!r}, union_by_name=true) ORDER BY _partition, _offset"
).fetchall()

rows = []
for path in paths:
    table = parquet.read_table(path)
    assert table.column_names[: len(columns)] == columns, table.column_names
    rows += table.to_pylist()
rows.sort(key=lambda row: (row["_partition"], row["_offset"]))
assert len(rows) == len(by_duckdb), (len(rows), len(by_duckdb))

for row, other in zip(rows, by_duckdb):
    timestamp_ms = round(row["_timestamp"].timestamp() * 1000)
    same = (row["_partition"], row["_offset"], timestamp_ms, row["_key"], row["_value"], len(row["_headers"]))
    assert same == tuple(other), (same, other)
    headers = [[text(header["key"]), text(header["value"])] for header in row["_headers"]]
    declared = {name: row[name] for name in row if not name.startswith("_")}
    print(
        json.dumps(
            {
                "partition": row["_partition"],
                "offset": row["_offset"],
                "timestamp_ms": timestamp_ms,
                "key": text(row["_key"]),
                "value": text(row["_value"]),
                "headers": headers,
                "declared": declared,
                "error": row.get("_error"),
            },
            default=str,
        )
    )
