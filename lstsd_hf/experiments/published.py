"""The published GLUE results, to stand beside one's own."""

# Jiang et al., AAAI 2020, arXiv 2003.00739, Table 2: accuracy in %, for CoLA Matthews correlation x 100. Nearly all of
# the accuracies are whole numbers of right answers on the dev sets, as those of single runs would be.
TASKS = ("rte", "mrpc", "sst2", "cola")
BERT = {
    "vanilla": (72.20, 86.03, 93.00, 58.54),
    "mean_teacher": (70.39, 85.29, 92.89, 61.75),
    "snapshot_ensemble": (73.29, 86.76, 92.32, 59.53),
    "temporal_ensemble": (71.50, 85.78, 93.11, 60.56),
    "snapshot_distillation": (74.01, 87.25, 93.12, 60.09),
    "lstsd": (74.73, 89.22, 93.35, 61.59),
}
CNN = {
    "vanilla": (53.79, 70.83, 70.99, 9.70),
    "mean_teacher": (54.87, 71.81, 70.41, 9.32),
    "snapshot_ensemble": (55.60, 70.83, 71.67, 10.51),
    "temporal_ensemble": (54.87, 72.06, 70.53, 11.27),
    "snapshot_distillation": (56.68, 73.77, 71.67, 12.81),
    "lstsd": (57.40, 73.28, 72.36, 14.50),
}


def published_score(model: str, task: str, method: str) -> float | None:
    """The paper's score in its own unit, for its CNN if `model` is "cnn" and else for BERT-base; `None` if it has
    none."""
    row = (CNN if model == "cnn" else BERT).get(method)
    return row[TASKS.index(task)] if row is not None and task in TASKS else None
