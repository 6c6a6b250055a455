import joblib
import litserve
import pandas as pd


class Churn(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load("model.joblib")

    def decode_request(self, request):
        return pd.DataFrame(request["instances"])

    def predict(self, frame):
        return self.model.predict(frame).tolist()

    def encode_response(self, labels):
        return {"predictions": labels}


if __name__ == "__main__":
    litserve.LitServer(Churn(), accelerator="cpu").run(host="127.0.0.1", port=8000, generate_client_file=False)
