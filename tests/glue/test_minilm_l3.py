"""The encoder made from the ONNX graph, beside the graph itself."""

import numpy as np
import onnxruntime
import torch
from transformers import AutoModel, AutoTokenizer

from lstsd_hf.glue.minilm_l3 import graph_path
from lstsd_hf.glue.models import resolve_model

TEXTS = ["A man is eating food.", "Self-distillation!", "x " * 60]


def test_embeddings_equal_those_of_the_graph():
    folder = resolve_model("minilm-l3")
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 17_241_984
    with torch.no_grad():
        states = model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    session = onnxruntime.InferenceSession(graph_path(), providers=["CPUExecutionProvider"])
    feed = {name: tokens[name].numpy() for name in ("input_ids", "attention_mask")}
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feed), strict=True))
    expected = next(value for value in outputs.values() if value.ndim == 3)
    mask = tokens["attention_mask"].bool().numpy()
    np.testing.assert_allclose(states.numpy()[mask], expected[mask], atol=1e-4)
    # The sentence embedding: the mean over the tokens.
    weights = tokens["attention_mask"][..., None]
    embedding = (states * weights).sum(1) / weights.sum(1)
    [own] = [value for value in outputs.values() if value.shape == (3, 384)]
    np.testing.assert_allclose(embedding.numpy(), own, atol=1e-4)
