"""Training only the top of an encoder: what the frozen part says of each example is computed once and kept on disk."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedModel

from ..errors import InputError, first_line
from ..files import replacing_folder
from ..fingerprint import model_settings

STATES_NAME, OFFSETS_NAME = "states.npy", "offsets.npy"
BATCH_SIZE = 64


class FrozenStates(TorchDataset):
    """One split's hidden states, or pooled features, memory-mapped.

    Args:
        folder: Where `compute_states` wrote them.
        labels: Class indices, or `None`.
        pooled: Whether there is one feature vector for each example instead of a state for each token.
    """

    def __init__(self, folder: Path, labels: Sequence[int] | None, pooled: bool):
        self._states = np.load(folder / STATES_NAME, mmap_mode="r")
        self._offsets = np.load(folder / OFFSETS_NAME)
        self.labels = labels
        self._pooled = pooled

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = torch.from_numpy(self._states[self._offsets[index] : self._offsets[index + 1]].copy())
        item = {"features": rows[0]} if self._pooled else {"inputs_embeds": rows}
        return item if self.labels is None else item | {"labels": self.labels[index]}


def collate_states(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of `FrozenStates`, token states padded with zeros."""
    batch = {}
    if "features" in examples[0]:
        batch["features"] = torch.stack([example["features"] for example in examples])
    else:
        states = [example["inputs_embeds"] for example in examples]
        lengths = torch.tensor([len(rows) for rows in states])
        batch["inputs_embeds"] = nn.utils.rnn.pad_sequence(states, batch_first=True)
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    if "labels" in examples[0]:
        batch["labels"] = torch.tensor([example["labels"] for example in examples])
    return batch


class EncoderSplit:
    """An encoder cut below its `trainable_layers` top layers.

    Args:
        model: A sequence classifier whose base model has `embeddings` and a list of layers (BERT, RoBERTa, ELECTRA,
            MPNet, DistilBERT and others).
        trainable_layers: Layers above the cut.

    Raises:
        InputError: If the model is built otherwise, or has fewer layers.
    """

    def __init__(self, model: PreTrainedModel, trainable_layers: int):
        self._base = model.base_model
        self._stack = getattr(self._base, "encoder", getattr(self._base, "transformer", None))
        self._layers = getattr(self._stack, "layer", None)
        if not isinstance(self._layers, nn.ModuleList) or not hasattr(self._base, "embeddings"):
            raise InputError(
                "`trainable_layers` needs an encoder with `embeddings` and a list of layers, such as BERT, RoBERTa, "
                f"MPNet or DistilBERT, got {type(model).__name__}. Leave it out."
            )
        if trainable_layers >= len(self._layers):
            raise InputError(
                f"`trainable_layers` must be less than the encoder's {len(self._layers)} layers, got "
                f"{trainable_layers}. Leave it out to train all of them."
            )
        self._cut = len(self._layers) - trainable_layers

    def freeze(self) -> None:
        """Stops training of everything below the cut, and of what all layers share; pooler and head stay trainable."""
        for module in (self._base.embeddings, self._stack):
            module.requires_grad_(False)
        self._layers[self._cut :].requires_grad_(True)

    def fingerprint(self) -> str:
        """Digest of the frozen part's weights, of what the config makes of them, and of where the cut is."""
        digest = hashlib.sha256(f"{type(self._base).__name__} {self._cut} {model_settings(self._base)}".encode())
        above = {f"layer.{number}." for number in range(self._cut, len(self._layers))}
        for module in (self._base.embeddings, self._stack):
            for name, tensor in module.state_dict().items():
                if module is self._stack and name.startswith(tuple(above)):
                    continue
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @contextmanager
    def bottom(self) -> Iterator[Callable[..., Tensor]]:
        """The frozen part: the model's inputs to hidden states `(batch_size, sequence_length, hidden_size)`."""
        was_training = self._base.training
        self._stack.layer = self._layers[: self._cut]
        self._base.eval()
        try:
            yield lambda **inputs: self._base(**inputs).last_hidden_state
        finally:
            self._stack.layer = self._layers
            self._base.train(was_training)

    @contextmanager
    def top(self) -> Iterator[None]:
        """Within it the model takes hidden states at the cut as `inputs_embeds`."""
        embeddings = self._base.embeddings
        self._stack.layer = self._layers[self._cut :]
        self._base.embeddings = _PassThrough()
        try:
            yield
        finally:
            self._stack.layer, self._base.embeddings = self._layers, embeddings

    @torch.no_grad()
    def check(self, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
        """Raises an `InputError` unless the cut model, in evaluation mode, says what the whole one says of a batch."""
        was_training = model.training
        model.eval()
        try:
            whole = model(**batch).logits
            with self.bottom() as run:
                states = run(**batch)
            with self.top():
                cut = model(inputs_embeds=states, attention_mask=batch["attention_mask"]).logits
            difference = float((whole - cut).abs().max())
        except (RuntimeError, TypeError, AttributeError) as error:
            difference = f"{type(error).__name__}: {first_line(error)}"
        finally:
            model.train(was_training)
        if isinstance(difference, str) or not difference < 1e-3:
            raise InputError(
                f"`trainable_layers` needs an encoder that is a plain stack of layers on its embeddings, but "
                f"{type(model).__name__} predicts otherwise when it is cut (largest difference {difference}). Leave it "
                "out."
            )


class _PassThrough(nn.Module):
    """Instead of the embeddings: returns the hidden states it is given."""

    def forward(self, input_ids: Tensor | None = None, *args, inputs_embeds: Tensor | None = None, **kwargs) -> Tensor:
        # DistilBERT passes them by position.
        return inputs_embeds if inputs_embeds is not None else args[0]


def compute_states(
    split: EncoderSplit,
    tokens: Dataset,
    collate: Callable[[list[dict]], dict[str, Tensor]],
    cache: Path,
    device: torch.device,
    *,
    pooled: bool,
    dtype: type = np.float32,
) -> Path:
    """Runs the frozen part over tokenised examples, unless that was done before.

    Args:
        split: The encoder.
        tokens: Columns of the model's inputs, without labels.
        collate: Pads a list of rows.
        cache: Folder for such results; each has a subfolder named by a digest of weights and tokens.
        device: Where to run.
        pooled: Keep the mean over each example's tokens instead of a state for each token.
        dtype: Of the kept states.

    Returns:
        The folder with the states.
    """
    digest = hashlib.sha256(f"{split.fingerprint()} {pooled} {np.dtype(dtype)}".encode())
    for name in sorted(tokens.column_names):
        for values in tokens[name]:
            digest.update(np.asarray(values).tobytes() + b";")
    folder = cache / f"states-{digest.hexdigest()[:20]}"
    if folder.exists():
        return folder
    lengths = np.array([len(ids) for ids in tokens["input_ids"]])
    offsets = np.concatenate([[0], np.cumsum(np.ones_like(lengths) if pooled else lengths)])
    # Long and short texts apart, so that little is padded.
    order = np.argsort(lengths, kind="stable")
    with replacing_folder(folder) as temporary, split.bottom() as run, torch.no_grad():
        states = None
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            batch = collate([tokens[int(row)] for row in rows])
            is_token = batch["attention_mask"].bool().numpy()
            hidden = run(**{name: value.to(device) for name, value in batch.items()}).cpu().numpy().astype(dtype)
            if states is None:
                shape = (int(offsets[-1]), hidden.shape[-1])
                states = np.lib.format.open_memmap(temporary / STATES_NAME, "w+", dtype, shape)
            for position, row in enumerate(rows):
                own = hidden[position][is_token[position]]
                states[offsets[row] : offsets[row + 1]] = own.mean(axis=0, keepdims=True) if pooled else own
        states.flush()
        np.save(temporary / OFFSETS_NAME, offsets)
    return folder
