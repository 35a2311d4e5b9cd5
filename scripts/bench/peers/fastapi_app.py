"""What a careful user writes: FastAPI, orjson, uvloop, PyTorch; the Open Inference Protocol."""

import sys

import orjson
import torch
import uvicorn
from fastapi import FastAPI, Request, Response

from networks import load

app = FastAPI()
networks = load()


@app.post("/v2/models/{model}/infer")
async def infer(model: str, request: Request) -> Response:
    body = orjson.loads(await request.body())
    tensor = body["inputs"][0]
    with torch.inference_mode():
        rows = torch.tensor(tensor["data"], dtype=torch.float32).reshape(tensor["shape"][0], -1)
        probabilities = torch.softmax(networks[model](rows), 1)
    answer = {"model_name": model, "outputs": [
        {"name": "probabilities", "datatype": "FP32", "shape": list(probabilities.shape),
         "data": probabilities.flatten().tolist()},
        {"name": "label", "datatype": "BYTES", "shape": [len(rows)],
         "data": [str(label) for label in probabilities.argmax(1).tolist()]},
    ]}
    return Response(orjson.dumps(answer), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools",
                log_level="error", access_log=False)
