#!/usr/bin/env python3
"""A TypeScript client is generated from /openapi.json of a real server, compiled with tsc --strict, and predicts.

    make test-typescript               # needs Node.js; installs openapi-typescript and openapi-fetch into .tools/typescript

The client gives an instance that does not fit, too: that must not compile.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from test_openapi import DATA, ROOT, start, until_ready

FOLDER = ROOT / ".tools/typescript"
PACKAGES = {
    "openapi-typescript": "7.13.0",
    "openapi-fetch": "0.17.0",
    "typescript": "5.9.3",
    "@types/node": "20.19.43",
}

CLIENT = """
import createClient from "openapi-fetch";
import type { components, paths } from "./leeway";

const client = createClient<paths>({ baseUrl: process.argv[2] });
const penguin: components["schemas"]["PenguinsInstance"] = {
  island: "Biscoe", bill_length_mm: 46.1, bill_depth_mm: 13.2, flipper_length_mm: 211, body_mass_g: 4500, sex: "female",
};
const { data, error, response } = await client.POST("/v1/models/penguins:predict", { body: { instances: [penguin] } });
if (data === undefined) throw new Error(`${response.status}: ${error?.detail}`);
const label: "Adelie" | "Chinstrap" | "Gentoo" = data.predictions[0].label;
const confidence: number = data.predictions[0].confidence;
const digits = await client.POST("/predict", { body: { instances: [Array<number>(64).fill(0)] } });
const digit: number | undefined = digits.data?.predictions[0].label;
const models = await client.GET("/v1/models");
const version: number | undefined = models.data?.models[0].versions[0].version;
console.log(JSON.stringify({ label, confidence, digit, version }));
"""

MISTAKE = """
import createClient from "openapi-fetch";
import type { paths } from "./leeway";

const client = createClient<paths>({ baseUrl: "" });
await client.POST("/v1/models/penguins:predict", { body: { instances: [{ island: 3 }] } });
"""


def run(*command, **options):
    return subprocess.run(list(map(str, command)), cwd=FOLDER, text=True, check=False, **options)


def install():
    wanted = {"private": True, "type": "module", "dependencies": PACKAGES}
    manifest = FOLDER / "package.json"
    if manifest.exists() and json.loads(manifest.read_text()) == wanted and (FOLDER / "node_modules").exists():
        return
    if not shutil.which("npm"):
        sys.exit("error: there is no Node.js here; install it, so that node and npm are on the PATH")
    FOLDER.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps(wanted, indent=2))
    if run("npm", "install", "--silent", "--no-audit", "--no-fund").returncode != 0:
        manifest.unlink()
        sys.exit("error: the packages could not be installed")


def compiled(name, text):
    (FOLDER / name).write_text(text)
    options = ["--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", "--types", "node"]
    return run("npx", "--no-install", "tsc", *options, name, stdout=subprocess.PIPE)


def main():
    install()
    with tempfile.TemporaryDirectory() as scratch:
        for model in ["digits", "penguins"]:
            shutil.copytree(ROOT / "models" / model, Path(scratch) / model)
        server = start(Path(scratch))
        try:
            until_ready(server)
            address = f"http://127.0.0.1:{DATA}"
            made = run("npx", "--no-install", "openapi-typescript", f"{address}/openapi.json", "--output", "leeway.d.ts")
            if made.returncode != 0:
                sys.exit("error: openapi-typescript could not read the document")
            if (client := compiled("client.ts", CLIENT)).returncode != 0:
                sys.exit(f"error: the client does not compile:\n{client.stdout}")
            if compiled("mistake.ts", MISTAKE).returncode == 0:
                sys.exit("error: an instance of the wrong type compiles")
            said = run("node", "client.js", address, stdout=subprocess.PIPE)
            if said.returncode != 0:
                sys.exit("error: the client failed")
        finally:
            server.terminate()
            server.wait(60)
    answer = json.loads(said.stdout)
    if answer["label"] != "Gentoo" or not isinstance(answer["digit"], int) or answer["version"] is None:
        sys.exit(f"error: the client answered {answer}")
    print(f"the client predicted {answer}")


if __name__ == "__main__":
    main()
