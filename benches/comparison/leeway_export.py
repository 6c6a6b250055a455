import joblib
import leeway
import pandas as pd

X, y = pd.read_csv("X.csv"), pd.read_csv("y.csv")["churn"]
leeway.export(joblib.load("model.joblib"), X, y, "models/churn")
