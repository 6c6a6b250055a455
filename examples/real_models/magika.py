#!/usr/bin/env python3
"""magika (`pip install magika`): types of files, from its own ONNX file, compared with the package.

Asks for files of many types, some made here and some of this checkout and of Python: the label and the score of magika's
model have to be the same. Files that are too short for the model are left out, because magika does not ask it about them.
"""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import struct
import sys
import tarfile
import tempfile
import wave
import zipfile
from pathlib import Path

OWN_FOLDER = sys.path.pop(0)
import magika  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, OWN_FOLDER)
from server import HERE, Comparison, Server, encoded  # noqa: E402

ROOT = HERE.parent.parent
# Of each suffix, this many files are compared, of at most this many bytes.
FILES_OF_A_SUFFIX, LONGEST = 2, 200_000
LEAST_FILES = 70


def archive(opened):
    file = io.BytesIO()
    with opened(file) as archive:
        archive.write(HERE / "server.py", "server.py")
    return file.getvalue()


def made_files():
    """Yields names and contents of files that are made here."""
    text = (HERE / "server.py").read_bytes()
    yield "gzip", gzip.compress(text)
    yield "bzip2", bz2.compress(text)
    yield "xz", lzma.compress(text)
    yield "zip", archive(lambda file: zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as opened:
        opened.add(HERE / "server.py", "server.py")
    yield "tar", tar.getvalue()
    yield "pickle", pickle.dumps({"numbers": list(range(100))})
    numbers = io.BytesIO()
    np.save(numbers, np.arange(100.0))
    yield "npy", numbers.getvalue()
    sound = io.BytesIO()
    with wave.open(sound, "wb") as opened:
        opened.setnchannels(1), opened.setsampwidth(2), opened.setframerate(8_000)
        opened.writeframes(struct.pack("<999h", *range(999)))
    yield "wav", sound.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "database"
        connection = sqlite3.connect(database)
        connection.execute("create table visits (page text, at integer)")
        connection.commit()
        connection.close()
        yield "sqlite", database.read_bytes()
    yield "bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 14 + 40 + 48, 0, 0, 54, 40, 4, 4, 1, 24, 0, 48, 0, 0, 0, 0) + bytes(48)
    yield "random", np.random.default_rng(1).bytes(5_000)
    yield "white space around", b" \n\t\x0b\x0c" * 400 + b"{\"a\": [1, 2, 3]}" + b"\r\n" * 3_000
    yield "c", b"#include <stdio.h>\n\nint main(void) {\n    printf(\"hello\\n\");\n    return 0;\n}\n"
    yield "java", b"package a.b;\n\npublic class Hello {\n    public static void main(String[] arguments) {\n        System.out.println(1);\n    }\n}\n"
    yield "go", b"package main\n\nimport \"fmt\"\n\nfunc main() {\n\tfmt.Println(\"hello\")\n}\n"
    yield "sql", b"SELECT name, count(*) FROM visits JOIN pages USING (page) WHERE at > 5 GROUP BY name ORDER BY 2 DESC;\n"
    yield "csv", b"name,age,town\n" + b"".join(b"n%d,%d,Leiden\n" % (at, at) for at in range(40))
    yield "xml", b"<?xml version=\"1.0\"?>\n<note><to>a</to><from>b</from><body>hello there</body></note>\n"
    yield "ini", b"[server]\nport = 80\nhost = localhost\n\n[log]\nlevel = info\n"
    yield "latex", b"\\documentclass{article}\n\\begin{document}\n\\section{One}\nHello $a^2$.\n\\end{document}\n"
    yield "pdf", b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n2 0 obj\n<< /Type /Pages /Count 0 >>\nendobj\ntrailer << /Root 1 0 R >>\n%%EOF\n"
    yield "email", b"From: a@example.com\nTo: b@example.com\nSubject: hello\nMIME-Version: 1.0\nContent-Type: text/plain\n\nHello.\n"


def found_files():
    """Yields names and contents of files of this checkout and of Python, a few of each suffix."""
    seen = {}
    folders = [ROOT / folder for folder in ("src", "docs", "deploy", "scripts", "tests/data", "fuzz/seeds", "models")]
    for folder in [*folders, Path(sys.prefix) / "lib", Path(sys.base_prefix) / "lib"]:
        for path in sorted(path for path in folder.rglob("*") if path.suffix and path.is_file()):
            suffix = path.suffix.lower()
            if seen.get(suffix, 0) < FILES_OF_A_SUFFIX and path.stat().st_size <= LONGEST:
                seen[suffix] = seen.get(suffix, 0) + 1
                yield path.name, path.read_bytes()


def main():
    package = magika.Magika()
    model = Path(magika.__file__).parent / "models" / package.get_model_name()
    comparison, labels = Comparison(1e-5), set()
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "labels.txt"
        names.write_text("\n".join(json.loads((model / "config.min.json").read_text())["target_labels_space"]) + "\n")
        with Server("magika", model / "model.onnx", files=[names]) as server:
            count = 0
            for name, content in [*made_files(), *found_files()]:
                expected = package.identify_bytes(content).prediction
                if expected.dl.label == "undefined":
                    continue
                [answer] = server.predict([encoded(content)])
                comparison.equal(name, answer["label"], str(expected.dl.label))
                comparison.difference(name, abs(answer["confidence"] - expected.score))
                labels.add(answer["label"])
                count += 1
    comparison.note("files", f"{count} of {len(labels)} types", count >= LEAST_FILES)
    comparison.finish()


if __name__ == "__main__":
    main()
