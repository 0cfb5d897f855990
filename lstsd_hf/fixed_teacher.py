"""A model that teaches and does not learn, on the student's training examples."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from .distributed import gather_objects, sum_over_processes
from .errors import InputError, first_line
from .fingerprint import model_settings
from .label_order import matched_order
from .pixels import PixelStatistics
from .position_limit import position_limit
from .student import Student, named_parameters
from .teacher_outputs import TeacherOutputs, read_teacher_outputs, write_teacher_outputs

# A tokenizer without a limit says more.
NO_LIMIT = 10**6
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")


class FixedTeacher:
    """Another classifier, in evaluation mode and without gradient. It reads the training examples in one of two ways.

    With a tokenizer of its own it reads their texts; otherwise it is given the student's inputs.

    Args:
        model: The classifier.
        student: The student and its training set.
        device: Device of the training.
        name: What to call it in messages.
        tokenizer: Its tokenizer, if it is to read texts.
        processor: Its image processor, if it has one: the student's pixels are normalised as it says.

    Attributes:
        name: What it is called in messages.
        model: The classifier.
        rows_computed: Examples that it has been run on so far, on this process.

    Raises:
        InputError: If its labels are not the student's.
    """

    def __init__(
        self,
        model: nn.Module,
        student: Student,
        device: torch.device | str,
        name: str,
        tokenizer: Any = None,
        texts: list[list[str]] | None = None,
        processor: Any = None,
    ):
        self.name, self.rows_computed = name, 0
        self._student, self._device = student, device
        self.model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._tokens = None if tokenizer is None else _tokenize(texts, tokenizer, model)
        config = getattr(model, "config", None)
        own, students = PixelStatistics.of(config, processor), student.pixel_statistics
        self._pixels = (own, students) if own is not None and students is not None else None
        names = getattr(config, "id2label", None)
        self._order: list[int] | None = None
        if names and student.class_names:
            own = [names[label] for label in sorted(names)]
            self._order = matched_order(own, student.class_names, len(own), name)

    @classmethod
    def load(cls, name_or_path: str, student: Student, device: torch.device | str) -> "FixedTeacher":
        """Loads a classifier and its tokenizer, from the hub or a folder.

        A model that takes no tokens, or that was saved without a tokenizer, is given the student's inputs.

        Raises:
            InputError: If it cannot be loaded, has no trained output layer, or needs texts that there are not.
        """
        auto, kind = AutoModelForSequenceClassification, "a sequence classifier"
        if student.takes_pictures:
            auto, kind = AutoModelForImageClassification, "an image classifier"
        try:
            model, loading = auto.from_pretrained(name_or_path, output_loading_info=True, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise InputError(
                f"`teacher_model_name_or_path` must name {kind}, and {name_or_path!r} could not be loaded: "
                f"{first_line(error)} Connect to the internet, or give a local folder."
            ) from error
        if loading["missing_keys"]:
            raise InputError(
                f"The teacher {name_or_path!r} must be a fine-tuned classifier, but lacks "
                f"{', '.join(sorted(loading['missing_keys'])[:3])}. Fine-tune it first, and give the folder that it "
                "was saved in."
            )
        if student.takes_pictures:
            return cls(model, student, device, name_or_path, processor=_image_processor(name_or_path))
        accepted = named_parameters(model)
        if accepted is None or "input_ids" in accepted:
            return cls(model, student, device, name_or_path, *_tokenizer_and_texts(name_or_path, student, model))
        return cls(model, student, device, name_or_path)

    def logits(self, inputs: Mapping[str, Any], indices: Tensor) -> Tensor:
        """Its outputs for some training examples.

        Args:
            inputs: The student's inputs.
            indices: Example indices, int64 `(batch_size,)`.

        Returns:
            Logits `(batch_size, num_labels)` in the order of the student's labels.
        """
        with torch.no_grad():
            logits = self._student.run(self.model, self._inputs(inputs, indices))
        return logits if self._order is None else logits[:, self._order]

    def hidden_states(self, inputs: Mapping[str, Any], indices: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Its hidden states for some training examples; arguments are those of `logits`.

        Returns:
            The embeddings and the states after each layer, each `(batch_size, length, hidden_size)`, and the attention
            mask `(batch_size, length)`, if there is one.
        """
        inputs = self._inputs(inputs, indices)
        with torch.no_grad():
            return self._student.hidden_states(self.model, inputs), inputs.get("attention_mask")

    def _inputs(self, inputs: Mapping[str, Any], indices: Tensor) -> Mapping[str, Any]:
        self.rows_computed += len(indices)
        if self._tokens is None:
            return inputs if self._pixels is None else self._as_it_takes_pixels(inputs)
        rows = [{name: self._tokens[name][row] for name in self._tokens} for row in indices.tolist()]
        return self._tokenizer.pad(rows, return_tensors="pt").to(self._device)

    def _as_it_takes_pixels(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        own, students = self._pixels
        return {**inputs, "pixel_values": students.converted(inputs["pixel_values"], own)}

    def outputs(self, num_examples: int, folder: Path) -> tuple[TeacherOutputs, str]:
        """Its outputs for all training examples, from a file of an earlier run or by one pass over them.

        Args:
            num_examples: Examples in the training set.
            folder: Where the file is, or will be: its name is a digest of teacher and data.

        Returns:
            The outputs, and where they come from.
        """
        start = time.perf_counter()
        path = folder / f"teacher-outputs-{self._digest()[:20]}.safetensors"
        # A file that not every process sees is of no use.
        if all(gather_objects(path.is_file())):
            return read_teacher_outputs(path), f"read from {path}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"`cache_dir` must be a folder that can be written, for the teacher's outputs, got {folder}: {error}. "
                "Choose another."
            ) from error
        table: Tensor | None = None
        for indices, logits in self._student.predict_training_set(self.logits):
            if table is None:
                table = logits.new_zeros(num_examples, logits.size(1))
            table[indices] = logits
        outputs = TeacherOutputs(sum_over_processes(table).cpu(), "logits")
        if self._student.writes_files:
            write_teacher_outputs(path, outputs)
        self._student.wait_for_everyone()
        return outputs, f"computed in {time.perf_counter() - start:.1f} s and kept in {path}"

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of its weights, of what its config makes of them, and of the order of its labels."""
        pixels = "" if self._pixels is None else f" {self._pixels}"
        digest = hashlib.sha256(
            f"{type(self.model).__name__} {self._order}{pixels}{model_settings(self.model)}".encode()
        )
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _digest(self) -> str:
        """SHA-256 of its weights and of what it reads."""
        digest = hashlib.sha256(f"{self.weights_digest} {self._student.precision}".encode())
        for text in self._what_it_reads():
            digest.update(text.encode())
        return digest.hexdigest()

    def _what_it_reads(self) -> Iterator[str]:
        if self._tokens is not None:
            yield from (f"{name} {row}" for name, rows in sorted(self._tokens.items()) for row in rows)
            return
        for inputs in self._student.training_inputs():
            for name, value in sorted(inputs.items()):
                # Pixels would make long texts.
                is_long = isinstance(value, Tensor) and value.is_floating_point()
                digest = hashlib.sha256(value.numpy()).hexdigest() if is_long else None
                yield f"{name} {digest or (value.tolist() if isinstance(value, Tensor) else value)}"


def _check_vocabulary(model: nn.Module, student: Student, name: str) -> None:
    """Whether a teacher without a tokenizer can read the student's token ids."""
    sizes = [getattr(getattr(item, "config", None), "vocab_size", None) for item in (model, student.model)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise InputError(
            f"The teacher {name!r} has no tokenizer in its folder and must know the student's tokens, but has "
            f"{sizes[0]} of them and the student {sizes[1]}. Save the teacher's tokenizer into its folder."
        )


def _image_processor(name_or_path: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError, ImportError):
        return None  # the config may say how pixels are normalised


def _tokenizer_and_texts(name_or_path: str, student: Student, model: nn.Module) -> tuple[Any, list[list[str]] | None]:
    """By which tokenizer a teacher reads which texts; twice `None` if it is to be given the student's inputs."""
    folder = Path(name_or_path)
    # Without files, transformers makes a tokenizer of special tokens alone.
    if folder.is_dir() and not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        _check_vocabulary(model, student, name_or_path)
        return None, None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"The tokenizer of the teacher {name_or_path!r} could not be loaded: {first_line(error)} "
            "Save the teacher's tokenizer into its folder, or install what it needs."
        ) from error
    texts = student.training_texts()
    if texts is not None:
        if tokenizer.pad_token is None:
            raise InputError(
                f"The tokenizer of the teacher {name_or_path!r} must have a padding token, found none. Set its "
                "`pad_token`, save it, and give that folder."
            )
        return tokenizer, texts
    own = student.processing_class
    if not hasattr(own, "get_vocab") or own.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"The teacher {name_or_path!r} has a tokenizer unlike the student's and must be given texts, but the "
            "training set has no column of strings. Keep the texts in the dataset, where the model does not see them, "
            "or override `training_texts` of the trainer."
        )
    return None, None


def _tokenize(texts: list[list[str]], tokenizer: Any, model: nn.Module) -> dict[str, list]:
    limit = min(tokenizer.model_max_length, position_limit(model) or NO_LIMIT)
    options = {"truncation": True, "max_length": limit} if limit < NO_LIMIT else {}
    return dict(tokenizer(*texts, **options))
