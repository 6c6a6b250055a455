"""Trains the model that all servers serve: a pipeline of scikit-learn over a table with texts, booleans and missing values.

Writes model.joblib, X.csv and y.csv (held-out rows, and what is true of them), and expected.json (what scikit-learn predicts
for these rows).
"""

import json

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

random, rows = np.random.default_rng(1), 4000
table = pd.DataFrame({
    "age": random.normal(42, 13, rows).round(),
    "visits": random.integers(0, 40, rows),
    "monthly_spend": random.gamma(2, 20, rows).round(2),
    "months": random.integers(1, 120, rows),
    "plan": random.choice(["basic", "plus", "pro"], rows),
    "country": random.choice(["NL", "DE", "FR", "BE"], rows),
    "channel": random.choice(["web", "shop", "phone"], rows),
    "newsletter": random.random(rows) < 0.4,
})
risk = 0.15 + 0.4 * (table["plan"] == "basic") + 0.2 * (table["age"] < 35) - 0.1 * table["newsletter"]
churn = pd.Series(np.where(random.random(rows) < risk, "leaves", "stays"), name="churn")
for column in ("age", "monthly_spend", "plan"):
    table.loc[random.random(rows) < 0.1, column] = np.nan

encode = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
columns = make_column_transformer(
    (SimpleImputer(strategy="median"), ["age", "visits", "monthly_spend", "months", "newsletter"]),
    (encode, ["plan", "country", "channel"]),
)
model = make_pipeline(columns, RandomForestClassifier(100, min_samples_leaf=3, random_state=1))
model.fit(table[:3500], churn[:3500])
joblib.dump(model, "model.joblib")

held_out = table[3500:].reset_index(drop=True)
held_out.to_csv("X.csv", index=False)
churn[3500:].to_csv("y.csv", index=False)
scores = model.predict_proba(held_out)
instances = [
    {name: None if value != value else value for name, value in row.items()} for row in held_out.to_dict("records")
]
expected = {
    "instances": instances,
    "labels": list(model.classes_[scores.argmax(axis=1)]),
    "confidences": [float(score) for score in scores.max(axis=1)],
}
with open("expected.json", "w") as file:
    json.dump(expected, file)
