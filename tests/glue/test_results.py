"""What a run keeps of its log."""

from lstsd_hf.runner.results import epochs_from_log


def test_whatever_a_method_logs_is_kept():
    log = [
        {
            "loss": 0.5,
            "loss_base": 0.4,
            "my_metric": 3.0,
            "grad_norm": 1.0,
            "learning_rate": 1e-3,
            "epoch": 1.0,
            "step": 4,
        },
        {"eval_loss": 0.6, "eval_accuracy": 0.7, "epoch": 1.0, "step": 4},
        {"train_runtime": 1.0, "train_loss": 0.5, "epoch": 1.0, "step": 4},
    ]
    assert epochs_from_log(log) == [
        {"epoch": 1.0, "loss": 0.5, "loss_base": 0.4, "my_metric": 3.0, "eval_loss": 0.6, "eval_accuracy": 0.7}
    ]
