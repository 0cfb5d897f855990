"""The drop-in: a mixin for `transformers.Trainer` and its subclasses. It knows no method and no divergence."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.utils import find_labels

from . import __version__
from .errors import InputError
from .evaluation import JointEvaluationMixin
from .events import TeacherEvents
from .example_index import EXAMPLE_INDEX, check_has_indices, check_rows, split_indices
from .health import FiniteCheck, check_gradient
from .hyperparameter_search import SearchableTeacherMixin
from .learning_rate import TeacherLearningRateMixin
from .logs import BASE, TrainingLog
from .loss_scale import base_loss_of, found_to_divide_by_items, log_divisor, term_scale
from .model_card import add_to_model_card
from .problems import flat_labels, problem_of
from .resume import ResumableMixin
from .setups import check_setup, checked_device
from .shadowing import shadowed
from .student import Student, logits_of
from .teachers import DistillationTerm, Teacher, TeacherBatch, TeacherConfig, build_teacher
from .training_data import IndexedTrainingDataMixin


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


class SelfDistillationMixin(
    IndexedTrainingDataMixin, JointEvaluationMixin, ResumableMixin, TeacherLearningRateMixin, SearchableTeacherMixin
):
    """Adds a self-distillation teacher to a `Trainer` class: `class Mine(SelfDistillationMixin, MyTrainer)`.

    The base loss is whatever `compute_loss` returns, Trainer's or an override in any class; the teacher may weight it,
    and adds terms to it. Evaluation and prediction are the parent's, unless the teacher declares an ensemble or copies
    to score. The training dataset, the collator and `args` stay as they were given.

    Base loss and terms keep the ratio 1 : λ under gradient accumulation and on several processes: see the table of
    `lstsd_hf.loss_scale.term_scale`. Override `distillation_scale` if your loss follows another rule.

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
        divides_by_items: Whether the model was found to divide its loss by `num_items_in_batch`; `None`: not known yet.
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
            self.teacher.memory_device = checked_device(memory_device)
        super().__init__(*args, **kwargs)
        self._student = Student(self)
        if self.args.label_names is None and not self.label_names:
            # Trainer looks at the wrapper of a compiled model.
            self.label_names = find_labels(type(self._student.model))
        self._training_log = TrainingLog()
        self._finite_check = FiniteCheck()
        self._events = TeacherEvents(
            self.teacher, self._student, self._training_log, self._finite_check, self.callback_handler
        )
        self._micro_batch: _MicroBatch | None = None
        self._is_first_pass = False
        self._step_distils = False
        self.divides_by_items: bool | None = None
        if self.teacher.needs_batches and self.train_dataset is not None:
            check_has_indices(self.train_dataset)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if Trainer in cls.__mro__ and cls.__mro__.index(SelfDistillationMixin) > cls.__mro__.index(Trainer):
            raise TypeError(
                f"SelfDistillationMixin must come before the Trainer class in the bases of {cls.__name__}: "
                f"`class {cls.__name__}(SelfDistillationMixin, MyTrainer)`."
            )

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
        check_rows(logits, indices)
        batch = TeacherBatch(inputs, indices, labels, logits, self._events.progress, self._student.forward)
        num_items_in_batch = kwargs.get("num_items_in_batch")
        parts = {BASE: base_loss}
        kind = base_loss_of(self)
        is_visible = self.current_gradient_accumulation_steps > 1 or self.accelerator.num_processes > 1
        if self.divides_by_items is None and is_visible and kind.is_own:
            self.divides_by_items = found_to_divide_by_items(
                kind, base_loss, self.teacher.problem, logits, labels, num_items_in_batch
            )
        scale = self.distillation_scale(len(indices), num_items_in_batch, labels)
        terms = self.teacher.loss_terms(batch)
        weight = self.teacher.base_loss_weight(batch)
        loss = base_loss if weight == 1 else base_loss * weight
        for name, term in terms.items():
            check_gradient(name, term.per_example)
            parts[name] = term.per_example.mean() * scale
            loss = torch.add(loss, parts[name], alpha=term.weight)
        if self._is_first_pass:
            self._micro_batch = _MicroBatch(
                batch, parts, terms, log_divisor(kind, num_items_in_batch, self.current_gradient_accumulation_steps)
            )
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

    def distillation_scale(
        self, batch_size: int, num_items_in_batch: Tensor | int | None, labels: Tensor | None = None
    ) -> Tensor | float:
        """Factor that puts a term's mean on the base loss's scale: `term_scale` of `lstsd_hf.loss_scale`.

        Override it if your loss follows another rule.

        Args:
            batch_size: Examples in the micro-batch.
            num_items_in_batch: Labels in the whole optimizer step, or `None` where Trainer does not count them.
            labels: The micro-batch's labels.
        """
        return term_scale(base_loss_of(self), batch_size, num_items_in_batch, labels)

    # ---- Logs ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs with the parts of the loss and the teacher's numbers beside each training `loss`."""
        if "loss" in logs and self.is_in_train and self.teacher.needs_batches:
            steps_per_epoch = self._events.progress.plan.steps_per_epoch
            logs |= self._training_log.drain(self.state.global_step, steps_per_epoch)
            logs |= self.teacher.log_metrics()
        super().log(logs, start_time)

    # ---- Training runs and checkpoints ----

    @contextmanager
    def _taught(self) -> Iterator[None]:
        """A training run: the teacher hears of its events and sees its batches, whatever a subclass overrides."""
        if not (self.teacher.needs_batches or self.teacher.is_stateful):
            yield
            return
        wrappers: dict[str, Callable] = {}
        if self.teacher.needs_batches and self.train_dataset is not None:
            wrappers = {
                "get_train_dataloader": self._indexed_train_dataloader,
                "training_step": self._distilling_step,
                "compute_loss": self._distilling_loss,
            }
        elif self.teacher.predicts_as_ensemble:
            wrappers = {"compute_loss": self._observed_loss}
        callbacks = self.callback_handler.callbacks
        # The first, so that a callback that evaluates or saves meets a teacher that is up to date.
        callbacks.insert(0, self._events)
        try:
            with shadowed(self, wrappers):
                yield
        finally:
            callbacks.remove(self._events)

    def _inner_training_loop(self, *args, **kwargs):
        # Entered anew for each `train()`, trial and batch size tried; a checkpoint is loaded further in.
        check_setup(self)
        self.teacher.reset(len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else 0)
        self.teacher.distilled_steps = 0
        self._step_distils = False
        self._training_log.reset()
        self._finite_check.reset()
        self.divides_by_items = None
        if self.teacher.is_stateful and self.args.save_strategy != "no":
            # Not in the middle of the first save, where other processes wait.
            self._run_description()
        with self._taught():
            return super()._inner_training_loop(*args, **kwargs)

    def create_model_card(self, *args, **kwargs) -> None:
        """The parent's, with the method and its options."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            add_to_model_card(Path(self.args.output_dir) / "README.md", self.teacher, __version__)


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
