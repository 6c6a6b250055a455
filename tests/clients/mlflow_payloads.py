"""MLflow's own client against Leeway: `python mlflow_payloads.py URL`. The default model is the shipped `penguins`."""

import io
import sys
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import requests
from mlflow.deployments import PredictionsResponse
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

ROWS = pd.DataFrame(
    {
        "island": ["Biscoe", "Dream", "Torgersen"],
        "bill_length_mm": [50.0, np.nan, 39.1],
        "bill_depth_mm": [15.3, 18.7, 18.7],
        "flipper_length_mm": [220, 195, 181],
        "body_mass_g": [5550.0, 3650.0, np.nan],
        "sex": ["male", "female", None],
    }
)


def main(url):
    address = urlsplit(url)
    client = ScoringServerClient(address.hostname, address.port)
    client.ping()
    assert client.get_version()
    assert requests.get(url + "/health").status_code == 200

    frame = client.invoke(ROWS, params={}).get_predictions()
    labels = list(frame["label"])
    assert len(labels) == len(ROWS) and set(labels) <= {"Adelie", "Chinstrap", "Gentoo"}, labels
    assert labels[0] == "Gentoo", labels

    # The columns in another order, records, columns as lists, and CSV have the same answers.
    reordered = client.invoke(ROWS[ROWS.columns[::-1]]).get_predictions()
    assert list(reordered["label"]) == labels

    def post(content_type, body):
        response = requests.post(url + "/invocations", data=body, headers={"Content-Type": content_type})
        assert response.status_code == 200, response.text
        return list(PredictionsResponse.from_json(response.text).get_predictions()["label"])

    assert post("application/json", '{"dataframe_split": %s}' % ROWS.to_json(orient="split")) == labels
    assert post("application/json", '{"dataframe_records": %s}' % ROWS.to_json(orient="records")) == labels
    assert post("application/json", '{"inputs": %s}' % columns(ROWS)) == labels
    assert post("text/csv", ROWS.to_csv(index=False)) == labels
    assert post("text/csv; charset=utf-8", ROWS.to_csv(index=False, header=False)) == labels

    # A matrix without names, as columns that pandas has numbered, and as nested lists.
    digits = np.random.default_rng(7).integers(0, 17, (5, 64)).astype(np.float64)
    target = {"X-Amzn-SageMaker-Target-Model": "digits"}

    def of_digits(content_type, body):
        headers = {"Content-Type": content_type, **target}
        response = requests.post(url + "/invocations", data=body, headers=headers)
        assert response.status_code == 200, response.text
        return [prediction["label"] for prediction in response.json()["predictions"]]

    expected = of_digits("application/json", '{"inputs": %s}' % digits.tolist())
    frame = pd.DataFrame(digits)
    assert of_digits("application/json", '{"dataframe_split": %s}' % frame.to_json(orient="split")) == expected
    text = io.StringIO()
    np.savetxt(text, digits, delimiter=",", fmt="%g")
    assert of_digits("text/csv", text.getvalue()) == expected

    try:
        client.invoke(ROWS.drop(columns="island"))
    except Exception as error:
        assert '"island" is missing' in str(error).replace("\\", ""), error
    else:
        raise AssertionError("a missing column was accepted")
    print("ok")


def columns(frame):
    """The columns of a table as JSON."""
    parts = ('"%s": %s' % (name, frame[name].to_json(orient="values")) for name in frame.columns)
    return "{%s}" % ", ".join(parts)


main(sys.argv[1].rstrip("/"))
