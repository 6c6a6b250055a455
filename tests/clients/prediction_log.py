"""Reads a prediction log with DuckDB and with pandas, as any Parquet files, and prints what both find as JSON.

Usage: prediction_log.py FOLDER MODEL
"""

import glob
import json
import sys

import duckdb
import pandas

folder, model = sys.argv[1:]
predictions = f"{folder}/{model}/*/predictions-*.parquet"
outcomes = f"{folder}/{model}/*/outcomes-*.parquet"


def by_duckdb(files):
    rows = duckdb.sql(f"SELECT * FROM read_parquet('{files}', union_by_name = true) ORDER BY time, prediction_id")
    return [dict(zip(rows.columns, row)) for row in rows.fetchall()]


def by_pandas(files):
    frame = pandas.concat([pandas.read_parquet(file) for file in glob.glob(files)], ignore_index=True)
    frame = frame.sort_values(["time", "prediction_id"])
    return [{name: None if pandas.isna(value) else value for name, value in row.items()}
            for row in frame.to_dict("records")]


def plain(value):
    # Moments of time, and numbers of NumPy.
    return value.isoformat() if hasattr(value, "isoformat") else value.item()


def types():
    described = duckdb.sql(f"DESCRIBE SELECT * FROM read_parquet('{predictions}', union_by_name = true)").fetchall()
    return {name: kind for name, kind, *_ in described}


def row_groups():
    """The number of row groups of each file."""
    files = glob.glob(predictions) + glob.glob(outcomes)
    counted = "SELECT max(row_group_id) + 1 FROM parquet_metadata('{}')"
    return [duckdb.sql(counted.format(file)).fetchall()[0][0] for file in files]


duckdb.sql("SET TimeZone = 'UTC'")
print(json.dumps({
    "types": types(),
    "row_groups": row_groups(),
    "duckdb": {"predictions": by_duckdb(predictions), "outcomes": by_duckdb(outcomes)},
    "pandas": {"predictions": by_pandas(predictions), "outcomes": by_pandas(outcomes)},
}, default=plain))
