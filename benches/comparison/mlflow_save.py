import joblib
import mlflow
import pandas as pd

model, example = joblib.load("model.joblib"), pd.read_csv("X.csv").head(5)
mlflow.sklearn.save_model(model, "mlflow_model", input_example=example, serialization_format="cloudpickle")
