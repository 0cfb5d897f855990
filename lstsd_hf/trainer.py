"""The drop-in: a mixin for `transformers.Trainer` and its subclasses. It knows no method and no divergence."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import has_length
from transformers.utils import find_labels

from .context import TrainingContext
from .deferred_means import DeferredMeans
from .dynamics.trainer import RecordedTrainingMixin, with_recorder
from .evaluation import JointEvaluationMixin
from .events import TeacherEvents
from .example_index import EXAMPLE_INDEX, check_has_indices, check_rows, split_training_batch, take_rows
from .example_losses import ExampleLosses
from .health import FiniteCheck, check_gradient
from .hyperparameter_search import SearchableTeacherMixin
from .logs import BASE, MicroBatch, TrainingLog
from .loss_scale import BaseLoss, base_loss_of, log_divisor, term_scale
from .measured_loss import measured
from .memory import TableStorage
from .methods import Teacher, TeacherConfig, build_teacher
from .model_card import ModelCardMixin
from .observers import Observer, ObserverGroup
from .optimization import TeacherOptimizationMixin
from .problem_types import labels_in
from .resume import ResumableMixin
from .setups import bypassed, check_comes_first, check_setup
from .shadowing import shadowed
from .student import Student, checked_result, logits_of
from .term_names import Names
from .training_batch import TrainingBatchMixin
from .training_data import IndexedTrainingDataMixin


class SelfDistillationMixin(
    IndexedTrainingDataMixin,
    TrainingBatchMixin,
    JointEvaluationMixin,
    SearchableTeacherMixin,
    TeacherOptimizationMixin,
    ResumableMixin,
    ModelCardMixin,
    RecordedTrainingMixin,
):
    """Adds a self-distillation teacher to a `Trainer` class: `class Mine(SelfDistillationMixin, MyTrainer)`.

    The base loss is whatever `compute_loss` returns, Trainer's or an override in any class; the teacher may weight it,
    and adds terms to it. Evaluation and prediction are the parent's, unless the teacher declares an ensemble or copies
    to score. The training dataset, the collator and `args` stay as they were given.

    Base loss and terms keep the ratio 1 : λ under gradient accumulation and on several processes: see the table of
    `lstsd_hf.loss_scale.term_scale`. Override `distillation_scale` if your loss follows another rule.

    Logged with each training `loss`: `loss_base` and, while the teacher distils, `loss_<term>`, both without their
    weights and on the same scale, so that `loss = base weight · loss_base + Σ weight · loss_<term>`; the share of
    examples on whose answer student and teacher agree, `teacher_agreement_<term>`, a mean over micro-batches; and the
    teacher's own numbers, such as `teacher_coverage`, the share of examples that have a teacher. Where there is none,
    or all terms are zero for a whole epoch, or one has no gradient or is not finite, training stops. If the base loss
    is not finite, it goes on.

    A `training_step` of your own may compute the loss of a micro-batch several times, as adversarial training does.
    Each loss has the terms. The teacher remembers the first one's outputs, and the log has the first one's parts.

    Checkpoints contain the teacher's state, and a run can only be resumed from one that does; see `train`. The hub
    strategies `checkpoint` and `all_checkpoints` upload it: predictions for the training set, in its order.

    Args:
        *args: Passed on to the parent Trainer.
        teacher: A `TeacherConfig` such as `LSTSDConfig()`, the name of a method such as "mean_teacher", a `Teacher`, or
            `None` for `LSTSDConfig()`.
        memory_storage: Where tables of predictions are kept, and how precisely: a `TableStorage`, or a text such as
            "bf16", "top-16", "sharded" or "disk,bf16". By default on the training device, as the student's outputs are.
        observers: Objects that see the training batches beside the teacher; see `Observer`.
        record_dynamics: Whether to keep what each epoch says of each training example: adds a `DynamicsRecorder`.
        **kwargs: Passed on to the parent Trainer.

    Attributes:
        teacher: The `Teacher`; its memory, where it has one, is `teacher.memory`.
        distilled_steps: Optimizer steps of the last training that had a distillation term.

    Examples:
        >>> class Mine(SelfDistillationMixin, Trainer): ...  # or your own Trainer class
        >>> _ = Mine(model=model, args=args, train_dataset=data, teacher="lstsd").train()
    """

    def __init__(
        self,
        *args: Any,
        teacher: Teacher | TeacherConfig | str | None = None,
        memory_storage: TableStorage | str | None = None,
        observers: Sequence[Observer] = (),
        record_dynamics: bool = False,
        **kwargs: Any,
    ):
        self._group = ObserverGroup(build_teacher(teacher), with_recorder(observers, record_dynamics))
        super().__init__(*args, **kwargs)
        self._storage = TableStorage.of(memory_storage, Path(self.args.output_dir))
        self._student = Student(self)
        if self.args.label_names is None and not self.label_names:
            # Trainer looks at the wrapper of a compiled model.
            self.label_names = find_labels(type(self._student.model))
        self._training_log, self._finite_check = TrainingLog(), FiniteCheck()
        self._example_losses = ExampleLosses(type(self.teacher).__name__ if self.teacher.needs_example_losses else None)
        checks = self._finite_check.check, self._example_losses.check
        self._events = TeacherEvents(self._group, self._check_plan, self._training_log, checks, self.callback_handler)
        self._micro_batch: MicroBatch | None = None
        self._is_first_pass = self._step_distils = False
        self.distilled_steps = 0
        if self._group.needs_batches and self.train_dataset is not None:
            check_has_indices(self.train_dataset)
        self._context = self._new_context()
        self._group.introduce(self._context)

    def _new_context(self) -> TrainingContext:
        num_examples = len(self.train_dataset) if has_length(self.train_dataset) else 0
        return TrainingContext(
            num_examples, self._student, self.args.device, self._storage, train_dataset=self.train_dataset
        )

    @property
    def teacher(self) -> Teacher:
        return self._group.teacher

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        check_comes_first(SelfDistillationMixin, cls)

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
            raise bypassed(self) from error
        finally:
            self._is_first_pass = False
        if self._micro_batch is None:
            raise bypassed(self)
        self._end_micro_batch(self._micro_batch)
        self._micro_batch = None
        return loss

    def _end_micro_batch(self, done: MicroBatch) -> None:
        # Without a label so far, tokens have no numbers yet.
        if len(done.batch.indices) or self._context.token_index is not None:
            self._group.observe(done.batch)
        if self.teacher.needs_batches:
            self._finite_check.add(done.loss, done.parts)
            self._training_log.add(done, self.state.global_step)
        self._step_distils |= bool(done.terms)
        if self.accelerator.sync_gradients:
            self.distilled_steps += self._step_distils
            self._step_distils = False

    def _distilling_loss(self, compute_loss: Callable[..., Any], model, inputs, return_outputs=False, *args, **kwargs):
        """The base loss, which is that of `compute_loss`, and on training batches the teacher's terms."""
        kwargs |= zip(["num_items_in_batch"], args, strict=False)
        if not model.training:
            return compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        inputs, indices = split_training_batch(inputs)
        labels = labels_in(inputs, self.label_names)
        rows = self.teacher.select_rows(inputs, indices, labels, self._student.forward)
        if rows is not None:
            inputs, indices = take_rows(inputs, rows, len(indices)), indices[rows]
            labels = labels_in(inputs, self.label_names)
        base_loss, outputs, logits = self._base_loss(compute_loss, model, inputs, kwargs)
        check_rows(logits, indices)
        batch = self._training_batch(inputs, indices, labels, logits, base_loss)
        num_items_in_batch = kwargs.get("num_items_in_batch")
        # The loss of a row that stands in for nobody must not be logged.
        shown = base_loss.new_zeros(base_loss.shape) if self.teacher.is_empty else base_loss.detach()
        parts: dict[Names, Tensor | DeferredMeans] = {BASE: shown}
        kind = self._base_loss_kind = measured(self._base_loss_kind, base_loss, outputs, batch, num_items_in_batch)
        count = len(batch.indices)
        scale = self.distillation_scale(count, num_items_in_batch, batch.labels)
        terms = self.teacher.loss_terms(batch)
        weight = self.teacher.base_loss_weight(batch)
        if not count:
            # No token of the micro-batch has a label. The teacher is asked all the same: its processes may talk.
            terms, weight = {}, 1.0
        loss = self._example_losses.weighted(kind, base_loss, weight, batch, scale)
        for names, term in terms.items():
            check_gradient(names, term)
            loss, parts[names] = term.added_to(loss, scale)
        if self._is_first_pass:
            divisor = log_divisor(kind, num_items_in_batch, self.current_gradient_accumulation_steps)
            self._micro_batch = MicroBatch(batch, loss, parts, terms, divisor)
            self._is_first_pass = False
        return (loss, outputs) if return_outputs else loss

    def _observed_loss(self, compute_loss: Callable[..., Any], model, inputs, return_outputs=False, *args, **kwargs):
        """The base loss alone, once with a look at what the outputs mean: an ensemble may predict without labels."""
        kwargs |= zip(["num_items_in_batch"], args, strict=False)
        if not model.training or self._context.problem_type is not None:
            return compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        labels = labels_in(inputs, self.label_names)
        loss, outputs, logits = self._base_loss(compute_loss, model, inputs, kwargs)
        self._meet(logits, labels)
        return (loss, outputs) if return_outputs else loss

    def _base_loss(
        self, compute_loss: Callable[..., Any], model, inputs, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Any, Tensor]:
        """The base loss, the model's outputs, and the logits among them."""
        result = compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss, outputs = checked_result(result, type(self).compute_loss.__qualname__)
        return loss, outputs, logits_of(outputs)

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
        return term_scale(self._base_loss_kind, batch_size, num_items_in_batch, labels)

    @functools.cached_property
    def _base_loss_kind(self) -> BaseLoss:
        # The same in every step, up to what is measured.
        return base_loss_of(self)

    # ---- Logs ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs with the parts of the loss and the teacher's numbers beside each training `loss`."""
        if "loss" in logs and self.is_in_train:
            if self.teacher.needs_batches:
                logs |= self._training_log.drain(self.state.global_step, self._context.plan.steps_per_epoch)
            logs |= self._group.log_metrics()
        super().log(logs, start_time)

    # ---- Training runs and checkpoints ----

    @contextmanager
    def _taught(self) -> Iterator[None]:
        """A training run: teacher and observers hear its events and see its batches, whatever a subclass overrides."""
        if not self._group.takes_part:
            yield
            return
        wrappers: dict[str, Callable] = {}
        if self._group.needs_batches:
            wrappers = {
                "get_train_dataloader": self._indexed_train_dataloader,
                "training_step": self._distilling_step,
                "compute_loss": self._distilling_loss,
            }
        elif self.teacher.predicts_as_ensemble:
            wrappers["compute_loss"] = self._observed_loss
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
        check_setup(self, self._group)
        self._context = self._events.context = self._new_context()
        self._group.begin(self._context)
        self.distilled_steps = 0
        self._step_distils = False
        self._training_log.reset()
        self._finite_check.reset()
        self._example_losses.reset()
        self._fitted, self._steps_per_epoch = {}, None
        self.__dict__.pop("_base_loss_kind", None)
        if self._group.is_stateful and self.args.save_strategy != "no":
            # Not in the middle of the first save, where other processes wait.
            self._run_description()
        with self._taught():
            return super()._inner_training_loop(*args, **kwargs)


class LSTSDTrainer(SelfDistillationMixin, Trainer):
    """`transformers.Trainer` with a self-distillation teacher, by default LSTSD; see `SelfDistillationMixin`.

    Examples:
        >>> trainer = LSTSDTrainer(model=model, args=args, train_dataset=data)
        >>> _ = trainer.train()
        >>> trainer.distilled_steps, trainer.teacher.memory.coverage
        (6, 1.0)
    """

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
