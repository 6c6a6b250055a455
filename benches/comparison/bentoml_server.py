import bentoml
import joblib
import pandas as pd


@bentoml.service
class Churn:
    def __init__(self) -> None:
        self.model = joblib.load("model.joblib")

    @bentoml.api
    def predict(self, instances: list[dict]) -> list[str]:
        return self.model.predict(pd.DataFrame(instances)).tolist()
