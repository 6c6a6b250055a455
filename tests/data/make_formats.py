#!/usr/bin/env python3
"""Writes tables and arrays in the formats of data science, for the tests of `leeway baseline` and `leeway add`.

The table has the penguins of `penguins_held_out.json`, with missing values, and columns that are not features: an id, a
time, a list, and the species that scikit-learn predicts. `penguins.csv` has the same rows as all other files. Run by hand;
the products are committed:

    pip install numpy==2.3.5 pandas==3.0.1 polars pyarrow
    python tests/data/make_formats.py
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
OUT = HERE / "formats"


def penguins():
    held_out = json.loads((HERE / "penguins_held_out.json").read_text())
    frame = pd.DataFrame(held_out["instances"])
    frame.insert(0, "id", np.arange(len(frame), dtype=np.int64))
    frame["flipper_length_mm"] = frame["flipper_length_mm"].astype("Int64")
    frame["body_mass_g"] = frame["body_mass_g"].astype("float32")
    frame["seen"] = pd.date_range("2008-01-01", periods=len(frame), freq="D")
    frame["species"] = held_out["versions"]["1"]["labels"]
    # The last rows have the missing values.
    return frame.tail(60).reset_index(drop=True)


def tables(frame):
    frame.to_csv(OUT / "penguins.csv", index=False)
    categories = frame.assign(island=frame["island"].astype("category"), eggs=[[1, 2]] * len(frame))
    # An index that does not count the rows is stored as a column.
    categories.index = [f"penguin {number}" for number in frame["id"]]
    categories.to_parquet(OUT / "pandas_snappy.parquet")
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table, OUT / "pyarrow_gzip.parquet", compression="gzip", row_group_size=20)
    plain = {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"}
    pq.write_table(table, OUT / "pyarrow_plain.parquet", **plain)
    pq.write_table(table.slice(0, 3), OUT / "pyarrow_brotli.parquet", compression="brotli")
    polars = pl.from_pandas(frame)
    polars.write_parquet(OUT / "polars_zstd.parquet", compression="zstd")
    polars.write_ipc(OUT / "polars.arrow", compression="zstd")
    pa.feather.write_feather(pa.Table.from_pandas(categories), OUT / "pandas_lz4.feather", compression="lz4")
    encoded = table.set_column(1, "island", table["island"].combine_chunks().dictionary_encode())
    with pa.ipc.new_stream(str(OUT / "pyarrow_stream.arrows"), encoded.schema) as stream:
        stream.write_table(encoded, max_chunksize=25)


def arrays():
    numbers = np.array([[1, 20], [3, 40], [-5, 60], [7, 80]])
    np.save(OUT / "float32.npy", numbers.astype("<f4"))
    np.save(OUT / "fortran.npy", np.asfortranarray(numbers.astype("<f8")))
    np.save(OUT / "big_endian.npy", numbers.astype(">i4"))
    np.save(OUT / "objects.npy", numbers.astype(object), allow_pickle=True)
    columns = {"age": np.array([[30.0], [40.0]], dtype=np.float32), "country": np.array([["NL"], ["12"]])}
    np.savez(OUT / "table.npz", **columns, unused=np.arange(3))
    np.savez_compressed(OUT / "table_compressed.npz", **columns)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    tables(penguins())
    arrays()
