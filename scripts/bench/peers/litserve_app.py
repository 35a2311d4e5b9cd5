"""LitServe with its own batching."""

import sys

import litserve
import torch

from networks import load


class Predictor(litserve.LitAPI):
    def setup(self, device):
        self.network = load()[sys.argv[2]]

    def decode_request(self, request):
        return torch.tensor(request["inputs"][0]["data"], dtype=torch.float32)

    def batch(self, inputs):
        return torch.stack(inputs)

    def predict(self, rows):
        with torch.inference_mode():
            return torch.softmax(self.network(rows), 1)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, row):
        return {"outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": row.tolist()},
            {"name": "label", "datatype": "BYTES", "shape": [1],
             "data": [str(row.argmax().item())]},
        ]}


if __name__ == "__main__":
    api = Predictor(max_batch_size=32, batch_timeout=0.001, api_path=f"/v2/models/{sys.argv[2]}/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error",
               generate_client_file=False)
