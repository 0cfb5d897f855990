"""A run's training labels, judged by models that did not train on them."""

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ..distributed import rank
from ..dynamics.cross_validation import cross_validate
from ..dynamics.history import History
from ..label_errors import example_texts
from .preparation import Prepared
from .run import Run
from .trainer import RunTrainer

logger = logging.getLogger(__name__)
FOLDER_NAME = "cross_validation"


def judge_labels(prepared: Prepared, untrained: PreTrainedModel, run: Run, folder: Path) -> History:
    """Trains the run's method on all folds but one, for each fold, and keeps what it says of that one.

    Args:
        prepared: The run's data.
        untrained: Its model before training.
        run: The run.
        folder: Its folder; `cross_validation` in it is then a history of one epoch.
    """
    output = folder / FOLDER_NAME
    data = prepared.splits["train"] if prepared.training_set is None else prepared.training_set
    args = copy.copy(run.args)
    args.output_dir = str(output / "training")
    args.eval_strategy, args.save_strategy, args.load_best_model_at_end = IntervalStrategy.NO, SaveStrategy.NO, False
    args.eval_on_start, args.push_to_hub, args.report_to = False, False, []

    def make_trainer(rows: Any) -> RunTrainer:
        logger.info(f"Cross-validation: training on {len(rows)} of {len(data)} examples.")
        set_seed(args.seed)
        return RunTrainer(
            model=copy.deepcopy(untrained),
            args=args,
            train_dataset=rows,
            callbacks=[*prepared.callbacks],
            **prepared.trainer_options,
            teacher=run.teacher,
        )

    history = cross_validate(make_trainer, data, output, run.cross_validate, texts=example_texts(prepared.train))
    if rank() == 0:
        shutil.rmtree(args.output_dir, ignore_errors=True)
    return history
