"""The drop-in: a mixin for `transformers.Trainer` and its subclasses. It knows no method and no divergence."""

import functools
import inspect
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import find_labels

from . import __version__
from .callback import TeacherMemoryCallback
from .checkpoint import (
    TRAINER_STATE_NAME,
    check_same_run,
    check_whole,
    describe_teacher,
    load_teacher_state,
    newest_whole_checkpoint,
    save_teacher_state,
)
from .compatibility import smoothing_divides_by_items
from .data import EXAMPLE_INDEX, IndexedDataset, check_has_indices, collate_indices, split_indices
from .errors import InputError
from .fingerprint import describe_dataset
from .health import FiniteCheck, check_gradient
from .logs import BASE, TrainingLog
from .prediction import JointPrediction, preprocess_each
from .problems import PROBLEMS, flat_labels, problem_of
from .student import Student, logits_of
from .teachers import DistillationTerm, Teacher, TeacherBatch, TeacherConfig, build_teacher
from .teachers.base import ConfiguredTeacher

logger = logging.getLogger(__name__)

# In front of the trainer's own entries in the teacher's file.
_OWN = "trainer."


@dataclass(frozen=True)
class _MicroBatch:
    """What is known of a micro-batch once its loss was computed.

    Attributes:
        batch: What the teacher sees of it.
        parts: The base loss, and each term's mean on the base loss's scale, without its weight.
        terms: The teacher's terms.
        log_divisor: By what Trainer divides the micro-batch's loss when it sums up for the log.
    """

    batch: TeacherBatch
    parts: dict[str, Tensor]
    terms: dict[str, DistillationTerm]
    log_divisor: int


class SelfDistillationMixin:
    """Adds a self-distillation teacher to a `Trainer` class: `class Mine(SelfDistillationMixin, MyTrainer)`.

    The base loss is whatever `compute_loss` returns, Trainer's or an override in any class; the teacher may weight it,
    and adds terms to it.
    Evaluation and prediction are the parent's, unless the teacher declares an ensemble or copies to score. The training
    data set, the collator and `args` stay as they were given.

    Scale of the terms. So that base loss and terms keep the ratio 1 : λ under gradient accumulation and on several
    processes, the mean of a term gets the factor by which Trainer's base loss differs from a mean over the micro-batch.
    Below, B is the number of labels in the micro-batch, N that in all micro-batches of the optimizer step on all
    processes (`num_items_in_batch`), W the number of processes (1 unless `average_tokens_across_devices`), G the number
    of micro-batches of the step.

    | base loss | Trainer's factor on it | ours on each term |
    |---|---|---|
    | the model's own, `forward` takes `**kwargs` (BERT and most others) | mean over B, times W | mean, times W |
    | the same, found to divide by N itself | sum over B / N, times W | mean, times B / N, times W |
    | the model's own, no `**kwargs` | mean over B, then divided by G | mean, then divided by G |
    | label smoothing, `forward` takes `**kwargs` | sum over B / N, times W | mean, times B / N, times W |
    | the same before transformers 5.15 | mean over B, times W | mean, times W |
    | label smoothing, no `**kwargs` | mean over B, then divided by G | mean, then divided by G |
    | `compute_loss_func` | opaque; by convention sum over B / N | mean, times B / N, times W |
    | an overridden `compute_loss` | opaque; by convention mean over B | mean |
    | the same, `loss_is_scaled_for_ga = True` | opaque; by convention sum over B / N | mean, times B / N |

    Override `distillation_scale` if your loss follows another rule. The table only matters with accumulation or
    several processes; otherwise all of its rows are the mean over the batch.

    Logged with each training `loss`: `loss_base` and, while the teacher distils, `loss_<term>`, both without their
    weights and on the same scale, so that `loss = base weight · loss_base + Σ weight · loss_<term>`; the share of
    examples on whose answer student and teacher agree, `teacher_agreement_<term>`; and the teacher's own numbers, such
    as `teacher_coverage`, the share of examples that have a teacher. Where there is none, or a term is zero for a whole
    epoch or has no gradient, training stops with the cause.

    A `training_step` of your own may compute the loss of a micro-batch several times, as adversarial training does.
    Each loss has the terms. The teacher remembers the first one's outputs, and the log has the first one's parts.

    A term that is not finite where the base loss is stops training before the optimizer step.

    Checkpoints contain the teacher's state, and a run can only be resumed from one that does; see `train`. The hub
    strategies `checkpoint` and `all_checkpoints` upload it: predictions for the training set, in its order.

    Args:
        *args: Passed on to the parent Trainer.
        teacher: A `TeacherConfig` such as `LSTSDConfig()`, the name of a method such as "mean_teacher", a `Teacher`, or
            `None` for `LSTSDConfig()`.
        memory_device: Where a teacher that has a table of predictions keeps it, such as "cpu" where the training device
            is short of memory; by default on the training device.
        **kwargs: Passed on to the parent Trainer.

    Attributes:
        teacher: The `Teacher`; its memory, where it has one, is `teacher.memory`.
    """

    def __init__(
        self,
        *args,
        teacher: Teacher | TeacherConfig | str | None = None,
        memory_device: str | torch.device | None = None,
        **kwargs,
    ):
        self.teacher = build_teacher(teacher)
        if memory_device is not None:
            self.teacher.memory_device = _checked_device(memory_device)
        super().__init__(*args, **kwargs)
        self._student = Student(self)
        if self.args.label_names is None and not self.label_names:
            # Trainer looks at the wrapper of a compiled model.
            self.label_names = find_labels(type(self._student.model))
        self._training_log = TrainingLog()
        self._finite_check = FiniteCheck()
        self._events = TeacherMemoryCallback(
            self.teacher, self._student, self._training_log, self._finite_check, self.callback_handler
        )
        self._micro_batch: _MicroBatch | None = None
        self._is_first_pass = False
        self._step_distils = False
        self._output_names: dict[frozenset[str], list[str]] = {}
        self._own_loss_divides_by_items: bool | None = None
        self._joint_prediction: JointPrediction | None = None
        self._changeable: frozenset[str] = frozenset()
        self._described: tuple[Any, dict[str, Any]] | None = None
        if self.teacher.needs_batches and self.train_dataset is not None:
            check_has_indices(self.train_dataset)

    # ---- Training data ----

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if Trainer in cls.__mro__ and cls.__mro__.index(SelfDistillationMixin) > cls.__mro__.index(Trainer):
            raise TypeError(
                f"SelfDistillationMixin must come before the Trainer class in the bases of {cls.__name__}: "
                f"`class {cls.__name__}(SelfDistillationMixin, MyTrainer)`."
            )

    def _indexed_train_dataloader(self, get_train_dataloader: Callable[[], DataLoader]) -> DataLoader:
        """The training data loader, its batches with the key `example_index` added."""
        dataset = self.train_dataset
        # The parent would look for unused columns in the indexed view and find none, so they go here.
        bare_dataset, _ = self.training_examples()
        try:
            self.train_dataset = IndexedDataset(bare_dataset, source=dataset)
            return collate_indices(get_train_dataloader(), len(dataset))
        finally:
            self.train_dataset = dataset

    def training_examples(self) -> tuple[Any, Any]:
        """The training set and the collator for its examples, both without columns that the model does not take."""
        if isinstance(self.train_dataset, datasets.Dataset):
            return self._remove_unused_columns(self.train_dataset, "training"), self.data_collator
        return self.train_dataset, self._get_collator_with_removed_columns(self.data_collator, "training")

    def _get_train_sampler(self, train_dataset=None):
        # Length grouping needs the user's own rows, with the length column.
        if isinstance(train_dataset, IndexedDataset):
            train_dataset = train_dataset.source
        return super()._get_train_sampler(train_dataset)

    # ---- Loss ----

    def _distilling_step(self, training_step: Callable[..., Tensor], *args, **kwargs) -> Tensor:
        """A training step of a micro-batch, whose loss the teacher must have met."""
        self._micro_batch, self._is_first_pass = None, True
        try:
            loss = training_step(*args, **kwargs)
        except TypeError as error:
            # A model that takes its inputs by name was given the index.
            if self._micro_batch is not None or EXAMPLE_INDEX not in str(error):
                raise
            raise self._bypassed() from error
        finally:
            self._is_first_pass = False
        if self._micro_batch is None:
            raise self._bypassed()
        self._end_micro_batch(self._micro_batch)
        self._micro_batch = None
        return loss

    def _end_micro_batch(self, done: _MicroBatch) -> None:
        self._finite_check.add(done.parts[BASE], {name: done.parts[name] for name in done.terms})
        self.teacher.observe(done.batch)
        self._training_log.add(done.parts, done.terms, done.log_divisor, self.state.global_step)
        self._step_distils |= bool(done.terms)
        if self.accelerator.sync_gradients:
            self.teacher.distilled_steps += self._step_distils
            self._step_distils = False

    def _bypassed(self) -> TypeError:
        return TypeError(
            f"`training_step` of {type(self).__name__} must call `self.compute_loss`, but the teacher saw no batch. "
            "Call it, not `super().compute_loss` or the model alone."
        )

    def _distilling_loss(self, compute_loss: Callable[..., Any], model, inputs, return_outputs=False, **kwargs):
        """The base loss, which is that of `compute_loss`, and on training batches the teacher's terms."""
        if not model.training:
            return compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        inputs, indices = split_indices(inputs)
        if indices is None:
            raise InputError(
                f"A training batch must have the key `{EXAMPLE_INDEX}`, found {sorted(inputs)}. A "
                "`get_train_dataloader` of your own must return a `torch.utils.data.DataLoader` over "
                "`self.train_dataset`."
            )
        labels = self._labels_in(inputs)
        base_loss, outputs, logits = self._base_loss(compute_loss, model, inputs, labels, kwargs)
        _check_rows(logits, indices)
        batch = TeacherBatch(inputs, indices, labels, logits, self._events.progress, self._student.forward)
        num_items_in_batch = kwargs.get("num_items_in_batch")
        parts = {BASE: base_loss}
        self._look_at_own_loss(base_loss, logits, labels, num_items_in_batch)
        scale = self.distillation_scale(len(indices), num_items_in_batch, labels)
        terms = self.teacher.loss_terms(batch)
        weight = self.teacher.base_loss_weight(batch)
        loss = base_loss if weight == 1 else base_loss * weight
        for name, term in terms.items():
            check_gradient(name, term.per_example)
            parts[name] = term.per_example.mean() * scale
            loss = torch.add(loss, parts[name], alpha=term.weight)
        if self._is_first_pass:
            self._micro_batch = _MicroBatch(batch, parts, terms, self._log_divisor(num_items_in_batch))
            self._is_first_pass = False
        return (loss, outputs) if return_outputs else loss

    def _observed_loss(self, compute_loss: Callable[..., Any], model, inputs, return_outputs=False, **kwargs):
        """The base loss alone, once with a look at what the outputs mean: an ensemble may predict without labels."""
        if not model.training or self.teacher.problem is not None:
            return compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        loss, outputs, _ = self._base_loss(compute_loss, model, inputs, self._labels_in(inputs), kwargs)
        return (loss, outputs) if return_outputs else loss

    def _base_loss(
        self, compute_loss: Callable[..., Any], model, inputs, labels: Tensor | None, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Any, Tensor]:
        """The base loss, the model's outputs, and the logits among them, whose meaning the teacher is told."""
        result = compute_loss(model, inputs, return_outputs=True, **kwargs)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                "`compute_loss` must return (loss, outputs) when called with `return_outputs=True`, got "
                f"{type(result).__name__} from {type(self).compute_loss.__qualname__}. The outputs hold the student's "
                "logits; end it with `return (loss, outputs) if return_outputs else loss`."
            )
        loss, outputs = result
        logits = logits_of(outputs)
        self.teacher.problem = problem_of(getattr(self.model, "config", None), logits, labels, self.teacher.problem)
        return loss, outputs, logits

    def _labels_in(self, inputs: Mapping[str, Any]) -> Any:
        # Before the parent's loss: label smoothing and `compute_loss_func` pop them from the inputs. Trainer takes
        # what is called `labels` first, too.
        names = sorted(self.label_names, key=lambda name: name != "labels")
        return flat_labels(next((inputs[name] for name in names if name in inputs), None))

    def _look_at_own_loss(
        self, base_loss: Tensor, logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None
    ) -> None:
        """Finds out, once, whether the model divides its loss by `num_items_in_batch`, which cannot be read off it."""
        is_visible = self.current_gradient_accumulation_steps > 1 or self.accelerator.num_processes > 1
        if self._own_loss_divides_by_items is not None or not (is_visible and self._loss_is_own):
            return
        if labels is None or num_items_in_batch is None or base_loss.dim():
            return
        share = float((labels != -100).sum() / num_items_in_batch)
        mean = float(self.teacher.problem.base_loss(logits.detach(), labels).mean()) * self._processes_in_loss
        # Nothing can be seen in a step of one micro-batch, in a loss of zero or in one that is not a number.
        if share not in (0.0, 1.0) and mean and math.isfinite(mean):
            self._own_loss_divides_by_items = math.isclose(float(base_loss.detach()), mean * share, rel_tol=1e-2)

    @property
    def _loss_is_own(self) -> bool:
        """Whether the loss is the model's, and it is given `num_items_in_batch`."""
        is_replaced = self.compute_loss_func is not None or self.label_smoother is not None
        is_parents = type(self).compute_loss is Trainer.compute_loss
        return is_parents and not is_replaced and self.model_accepts_loss_kwargs

    @property
    def _processes_in_loss(self) -> int:
        if not self.args.average_tokens_across_devices:
            return 1
        return self.args.n_gpu if self.args.n_gpu > 1 else self.accelerator.num_processes

    def distillation_scale(
        self, batch_size: int, num_items_in_batch: Tensor | int | None, labels: Tensor | None = None
    ) -> Tensor | float:
        """By what Trainer's base loss differs from a mean over the micro-batch; see the table in the class docstring.

        Args:
            batch_size: Examples in the micro-batch.
            num_items_in_batch: Labels in the whole optimizer step (N), or `None` where Trainer does not count them.
            labels: The micro-batch's labels, `batch_size` of them (B) unless an example has several.

        Returns:
            The factor on the mean of each term.
        """
        if num_items_in_batch is None:
            return 1.0
        is_overridden = type(self).compute_loss is not Trainer.compute_loss
        if is_overridden:
            divides_by_items = bool(getattr(self, "loss_is_scaled_for_ga", None))
        else:
            smooths_by_items = self.label_smoother is not None and smoothing_divides_by_items()
            divides_by_items = self.compute_loss_func is not None or smooths_by_items
            divides_by_items |= bool(self._own_loss_divides_by_items)
        scale = 1.0
        if divides_by_items:
            # As Trainer counts them.
            scale = (batch_size if labels is None else (labels != -100).sum()) / num_items_in_batch
        return scale if is_overridden else scale * self._processes_in_loss

    # ---- Evaluation ----

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """The parent's; where the teacher declares an ensemble or copies to score, they predict in the same pass."""
        options = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        # Not yet set before training.
        self.teacher.student = self.teacher.student or self._student
        ensemble = self.teacher.ensemble() if self.teacher.predicts_as_ensemble else None
        # Nobody looks at scores of copies without metrics.
        copies = self.teacher.scored_copies() if self.compute_metrics is not None else {}
        if ensemble is None and not copies:
            return super().evaluation_loop(*options)
        self._check_several_can_be_scored()
        joint = self._joint_prediction = JointPrediction(ensemble, copies, self._student)
        compute_metrics, preprocess = self.compute_metrics, self.preprocess_logits_for_metrics
        if compute_metrics is not None:
            self.compute_metrics = joint.score_all(compute_metrics)
        if preprocess is not None:
            self.preprocess_logits_for_metrics = preprocess_each(preprocess)
        try:
            output = super().evaluation_loop(*options)
        finally:
            self._joint_prediction = None
            self.compute_metrics, self.preprocess_logits_for_metrics = compute_metrics, preprocess
        return output._replace(predictions=output.predictions[0]) if output.predictions is not None else output

    def _check_several_can_be_scored(self) -> None:
        for name, wanted in (("batch_eval_metrics", False), ("eval_do_concat_batches", True)):
            if getattr(self.args, name) != wanted:
                raise InputError(
                    f"`{name}` must be {wanted} with {type(self.teacher).__name__}, got {not wanted}: several "
                    "predictions are scored in one pass. Leave it out."
                )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The parent's; the indices are dropped should the batch come from the training loader."""
        inputs, _ = split_indices(inputs)
        joint = self._joint_prediction
        if joint is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys)
        ignored = [*(ignore_keys or ()), *self.outputs_beside_logits(model, inputs)]
        loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys=ignored)
        if isinstance(labels, tuple | list):
            raise InputError(
                f"{type(self.teacher).__name__} scores several predictions in one pass, so a batch must have one kind "
                f"of labels in evaluation, got {len(labels)}. Name one in `label_names`, or use a method that predicts "
                "with the model alone, such as `LSTSDConfig()`."
            )
        is_flat = isinstance(logits, Tensor) and logits.dim() == 1
        logits, labels = logits_of(logits), flat_labels(labels)
        problem = self.teacher.problem or problem_of(getattr(self.model, "config", None), logits, labels)
        predictions = joint.predict(logits, self._prepare_inputs(inputs), problem)
        if joint.replaces_student and loss is not None:
            loss = problem.base_loss(predictions[0], labels).mean()
        if is_flat:
            predictions = tuple(item.squeeze(-1) for item in predictions)
        return (loss, None, None) if prediction_loss_only else (loss, predictions, labels)

    @torch.no_grad()
    def outputs_beside_logits(self, model, inputs) -> list[str]:
        """Names of a model's outputs other than its loss and logits, such as BART's encoder states.

        Args:
            model: The model, as `prediction_step` is given it.
            inputs: A batch. The first one with inputs of these names is run once more; the answer is kept.
        """
        kind = frozenset(inputs)
        if kind not in self._output_names:
            model.eval()
            inputs = self._prepare_inputs(inputs)
            # An override may take inputs that the model does not.
            is_labelled = any(name in inputs for name in self.label_names)
            outputs = self.compute_loss(model, inputs, return_outputs=True)[1] if is_labelled else model(**inputs)
            is_named = isinstance(outputs, Mapping) and "logits" in outputs
            self._output_names[kind] = [name for name in outputs if name not in ("loss", "logits")] if is_named else []
        return self._output_names[kind]

    def _load_best_model(self) -> None:
        super()._load_best_model()
        # What predicts together with the model must be of the same step.
        if self.teacher.predicts_with_copies:
            self._load_teacher(self.state.best_model_checkpoint)

    # ---- Logs ----

    def _log_divisor(self, num_items_in_batch: Tensor | int | None) -> int:
        """By what Trainer divides a micro-batch's loss when it sums up for the log."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            is_counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = is_counted or self.compute_loss_func is not None
        return 1 if scaled else self.current_gradient_accumulation_steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs with the parts of the loss and the teacher's numbers beside each training `loss`."""
        if "loss" in logs and self.is_in_train and self.teacher.needs_batches:
            steps_per_epoch = self._events.progress.plan.steps_per_epoch
            logs |= self._training_log.drain(self.state.global_step, steps_per_epoch)
            logs |= self.teacher.log_metrics()
        super().log(logs, start_time)

    # ---- Training runs and checkpoints ----

    def train(self, resume_from_checkpoint=None, *args, allow_teacher_changes: bool = False, **kwargs):
        """The parent's, resuming only from a checkpoint that is whole and of the same run.

        Args:
            resume_from_checkpoint: A checkpoint folder, or `True` for the one in `output_dir` that was finished last
                among those that are whole.
            *args: Passed on to the parent.
            allow_teacher_changes: Lets a resumed run have other options of the same method (those that its config
                names in `changeable`), such as λ and E.
            **kwargs: Passed on to the parent.

        Raises:
            InputError: If there is no whole checkpoint, or it is of a run with other settings or data.
        """
        self._described = None
        config = self.teacher.config
        self._changeable = frozenset(config.changeable if allow_teacher_changes and config is not None else ())
        self.teacher.accepts_changes = bool(self._changeable)
        return super().train(self._checked_checkpoint(resume_from_checkpoint), *args, **kwargs)

    def _checked_checkpoint(self, checkpoint: Any) -> Any:
        """The checkpoint to resume from, whole and of the same run, before the parent overwrites the model with it."""
        is_stateful = self.teacher.is_stateful
        if not (is_stateful or self.teacher.needs_batches):
            return checkpoint
        if checkpoint is True:
            found = newest_whole_checkpoint(Path(self.args.output_dir), is_stateful)
            if found is None:
                raise InputError(
                    f"`output_dir` must contain a whole checkpoint to resume from, found none in "
                    f"{self.args.output_dir}. Leave out `resume_from_checkpoint` to start a new run."
                )
            folder, metadata = found
            if self.is_world_process_zero():
                logger.info(f"Resuming from {folder}.")
        elif checkpoint and is_stateful:
            folder = Path(checkpoint)
            if not folder.is_dir():
                raise InputError(f"`resume_from_checkpoint` must be a checkpoint folder or True, got {folder}.")
            metadata = check_whole(folder, is_stateful)
        else:
            return checkpoint
        if is_stateful and not self.teacher.can_be_resumed:
            raise InputError(
                f"{type(self.teacher).__name__} must define `state_dict` and `load_state_dict` to be resumed, has "
                "neither: what it learned before the interruption would be lost. Define them, or start a new run."
            )
        if metadata:
            check_same_run(metadata, self._run_description(), folder, self._changeable)
        return str(folder)

    def _run_description(self) -> dict[str, Any]:
        """What a resumed run must share with the interrupted one."""
        if self._described is None or self._described[0] is not self.train_dataset:
            self._described = self.train_dataset, describe_dataset(self.train_dataset, self.label_names or ())
        num_labels = getattr(getattr(self.model, "config", None), "num_labels", None)
        description = {**describe_teacher(self.teacher), **self._described[1], "num_labels": num_labels}
        for name, value in description.items():
            _check_is_json(name, value)
        return description

    def _hp_search_setup(self, trial):
        """The parent's; a name that is an option of the teacher's config sets that."""
        config, options = self.teacher.config, set()
        if trial is not None and config is not None:
            options = {option.name for option in fields(config) if option.init and not hasattr(self.args, option.name)}
        # The parent sets what it finds among `args`.
        vars(self.args).update(dict.fromkeys(options, _NotSearched()))
        try:
            super()._hp_search_setup(trial)
            found = {name: getattr(self.args, name) for name in options}
        finally:
            for name in options:
                delattr(self.args, name)
        found = {name: value for name, value in found.items() if not isinstance(value, _NotSearched)}
        if found:
            memory_device, config = self.teacher.memory_device, replace(config, **found)
            is_built_of_it = isinstance(self.teacher, ConfiguredTeacher)
            self.teacher = type(self.teacher)(config) if is_built_of_it else config.build()
            self.teacher.memory_device = memory_device
            self._events.teacher = self.teacher

    @contextmanager
    def _taught(self) -> Iterator[None]:
        """A training run: the teacher hears of its events and sees its batches, whatever a subclass overrides."""
        if not (self.teacher.needs_batches or self.teacher.is_stateful):
            yield
            return
        callbacks = self.callback_handler.callbacks
        # The first, so that a callback that evaluates or saves meets a teacher that is up to date.
        callbacks.insert(0, self._events)
        wrappers: dict[str, Callable] = {}
        if self.teacher.needs_batches and self.train_dataset is not None:
            wrappers = {
                "get_train_dataloader": self._indexed_train_dataloader,
                "training_step": self._distilling_step,
                "compute_loss": self._distilling_loss,
            }
        elif self.teacher.predicts_as_ensemble:
            wrappers = {"compute_loss": self._observed_loss}
        methods = {name: functools.partial(wrap, getattr(self, name)) for name, wrap in wrappers.items()}
        own = {name: vars(self)[name] for name in methods if name in vars(self)}
        vars(self).update(methods)
        try:
            yield
        finally:
            for name in methods:
                delattr(self, name)
            vars(self).update(own)
            callbacks.remove(self._events)

    def _inner_training_loop(self, *args, **kwargs):
        # Entered anew for each `train()`, trial and batch size tried; a checkpoint is loaded further in.
        if self.teacher.needs_batches and self.train_dataset is not None:
            check_has_indices(self.train_dataset)
        if self.teacher.needs_batches and self.get_tp_size() > 1:
            raise InputError(
                f"{type(self.teacher).__name__} does not support tensor parallelism, got groups "
                f"of {self.get_tp_size()} processes. Use DistributedDataParallel (torchrun), or `NoTeacherConfig()`."
            )
        if self.teacher.runs_model:
            self._check_weights_are_whole()
        scores_several = self.teacher.predicts_as_ensemble or (
            self.teacher.predicts_with_copies and self.compute_metrics is not None
        )
        if scores_several and self.args.eval_strategy != "no":
            self._check_several_can_be_scored()
        self.teacher.reset(len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else 0)
        self.teacher.distilled_steps = 0
        self._step_distils = False
        self._training_log.reset()
        self._own_loss_divides_by_items = None
        if self.teacher.is_stateful and self.args.save_strategy != "no":
            self._check_best_model_can_be_loaded()
            # Not in the middle of the first save, where other processes wait.
            self._run_description()
        with self._taught():
            return super()._inner_training_loop(*args, **kwargs)

    def _check_best_model_can_be_loaded(self) -> None:
        if self.teacher.predicts_with_copies and self.args.load_best_model_at_end and self.args.save_only_model:
            raise InputError(
                f"`save_only_model` must be False with `load_best_model_at_end` and {type(self.teacher).__name__}, got "
                "True: the best model predicts together with the weights that its checkpoint would lack. Leave out one "
                "of the two."
            )

    def _check_weights_are_whole(self) -> None:
        is_zero3 = is_deepspeed_zero3_enabled()
        if self.is_fsdp_enabled or is_zero3:
            raise InputError(
                f"{type(self.teacher).__name__} must have the model's whole weights on every process, got "
                f"{'DeepSpeed ZeRO-3' if is_zero3 else 'FSDP'}, which shards them. Use DistributedDataParallel "
                "(torchrun without --fsdp), DeepSpeed ZeRO-1 or 2, or a method that keeps predictions only, such as "
                "`LSTSDConfig()`."
            )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The parent's, unless the teacher declares a learning rate of its own."""
        factor = self.teacher.learning_rate_factor
        if factor is None:
            return super().create_scheduler(num_training_steps=num_training_steps, optimizer=optimizer)
        if self.lr_scheduler is not None:
            raise InputError(
                f"{type(self.teacher).__name__} sets the learning rate itself, got a scheduler in `optimizers` too. "
                "Pass `optimizers=(optimizer, None)`, or set `cyclic_learning_rate=False` in its config."
            )
        # A plain function: the state of a scheduler contains the attributes of any other callable.
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: factor(step))
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        state_path = folder / TRAINER_STATE_NAME
        try:
            if self.args.should_save:
                # What an earlier run left there stops counting as whole before its files are overwritten.
                state_path.unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            # torch's writer has no error of its own.
            is_of_writing = not isinstance(error, RuntimeError) or "inline_container" in str(error)
            if not is_of_writing or state_path.exists():
                raise
            raise OSError(
                f"The checkpoint {folder} could not be written: {error}. It will not be taken for whole; earlier "
                "checkpoints are as they were. Free disk space or choose another `output_dir`, and resume with "
                "`resume_from_checkpoint=True`."
            ) from error

    def _save_scaler(self, output_dir: str) -> None:
        # The last of what the teacher's file has the digest of; every process comes by.
        super()._save_scaler(output_dir)
        if not self.teacher.is_stateful:
            return
        problem = self.teacher.problem
        state = self.teacher.state_dict() | {
            f"{_OWN}distilled_steps": self.teacher.distilled_steps,
            f"{_OWN}problem": None if problem is None else problem.name,
        }
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            run = self._run_description() | self._batch_description()
            ranks = range(self.args.world_size) if self.args.world_size > 1 else None
            if ranks and self.args.save_on_each_node:
                ranks = [self.args.process_index]
            save_teacher_state(state, run, self.state, ranks, output_dir)

    def _batch_description(self) -> dict[str, int]:
        # Another number of processes is welcome if the batch stays; `auto_find_batch_size` may have changed it.
        return {"global_batch_size": self.get_total_train_batch_size(self.args)}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not self.teacher.is_stateful:
            return
        self.teacher.distilled_steps = self._load_teacher(checkpoint)

    def _load_teacher(self, checkpoint: str) -> int:
        """Loads the teacher's state and returns how many steps had distilled."""
        run = self._run_description() | self._batch_description()
        state = load_teacher_state(run, checkpoint, self._changeable)
        distilled_steps = state.pop(f"{_OWN}distilled_steps")
        self.teacher.problem = PROBLEMS.get(state.pop(f"{_OWN}problem"))
        self.teacher.load_state_dict(state, self.args.device)
        return distilled_steps

    def create_model_card(self, *args, **kwargs) -> None:
        """The parent's, with the method and its options."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            path, heading = Path(self.args.output_dir) / "README.md", "### Self-distillation"
            # The parent leaves a card alone that is not its own.
            card = path.read_text(encoding="utf-8") if path.exists() else ""
            if heading in card:
                return
            name, *options = describe_teacher(self.teacher).items()
            lines = [f"Trained with lstsd_hf {__version__}, method `{name[1]}`.", ""]
            lines += [f"- {option}: {value}" for option, value in options]
            path.write_text("\n".join([card.rstrip("\n"), "", heading, "", *lines, ""]), encoding="utf-8")


class LSTSDTrainer(SelfDistillationMixin, Trainer):
    """`transformers.Trainer` with a self-distillation teacher, by default LSTSD; see `SelfDistillationMixin`."""

    @functools.wraps(SelfDistillationMixin.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    # What editors and `help` show: Trainer's parameters, then the teacher's.
    __init__.__signature__ = inspect.Signature(
        [
            *inspect.signature(Trainer.__init__).parameters.values(),
            *(
                parameter
                for parameter in inspect.signature(SelfDistillationMixin.__init__).parameters.values()
                if parameter.kind is parameter.KEYWORD_ONLY
            ),
        ]
    )


class _NotSearched:
    """In the place of an option: the parent converts a value to the type of what it replaces, here to itself."""

    def __new__(cls, *value):
        return value[0] if value else super().__new__(cls)


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"`memory_device` must be a device such as 'cpu', got {device!r}: {error}") from error


def _check_is_json(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except TypeError as error:
        raise InputError(
            f"`{name}` must be something that JSON can hold, so that checkpoints can name it, got {value!r}. Keep "
            "plain numbers, strings, lists and mappings in the teacher's config."
        ) from error


def _check_rows(logits: Tensor, indices: Tensor) -> None:
    if len(logits) != len(indices):
        raise ValueError(
            f"The data collator must keep one row for each example: it was given {len(indices)} examples and the "
            f"model returned {len(logits)} rows. Collators that drop, merge or pack examples cannot be used with "
            "sample distillation."
        )
