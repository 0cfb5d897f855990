"""The protocol's cells for the neighbouring methods, A7 and later."""

from collections.abc import Iterator

from .commands import CNN, FIVE, L3, MLP, RATES, SHORT_MINILM, TASKS, Command


def targets() -> Iterator[Command]:
    """Methods with targets of their own, in a1's cells."""
    for rate in RATES:
        for task in TASKS:
            settings = f"{MLP} --learning_rate 1e-3 --num_train_epochs 30"
            yield Command("mlp_targets", task, settings, "ps_kd elr sat", FIVE, rate)


def teachers() -> Iterator[Command]:
    """One fine-tuned teacher for each of kd's cells, and one of 12 layers."""
    for rate in RATES:
        for task in TASKS:
            # A single run goes to the very folder that is named.
            yield Command(teacher(task, rate), task, f"{SHORT_MINILM} --resume", "vanilla", range(1, 2), rate)
    settings = f"{SHORT_MINILM} --resume".replace("minilm", "runs/encoders/mpnet").replace("5e-5", "3e-5")
    yield Command(teacher("mrpc", 0.0, "mpnet"), "mrpc", settings, "vanilla", range(1, 2))


def teacher(task: str, rate: float, model: str = "minilm") -> str:
    """A teacher's folder in runs/."""
    return f"teachers/{model}-{task}-{rate}"


def kd() -> Iterator[Command]:
    """Taught by MiniLM, in a1's cells."""
    for rate in RATES:
        for task in TASKS:
            settings = f"{MLP} --learning_rate 1e-3 --num_train_epochs 30"
            method = f"kd --teacher_model_name_or_path runs/{teacher(task, rate)}"
            yield Command("mlp_kd", task, settings, method, FIVE, rate)


def kd_from_12_layers() -> Iterator[Command]:
    """To the CNN and to MiniLM."""
    methods = f"vanilla kd --kd.teacher_model_name_or_path runs/{teacher('mrpc', 0.0, 'mpnet')}"
    yield Command("kd_cnn", "mrpc", f"{CNN} --learning_rate 0.3 --num_train_epochs 30", methods, FIVE)
    yield Command("kd_minilm", "mrpc", SHORT_MINILM, methods, FIVE)


def gated() -> Iterator[Command]:
    """DLB's own form, and what leaves examples out, in a1's cells."""
    for rate in RATES:
        for task in TASKS:
            settings = f"{MLP} --learning_rate 1e-3 --num_train_epochs 30"
            for method in ("dlb", "self_regulated", "self_regulated --distillation none", "regulated_lstsd"):
                yield Command("mlp_gated", task, settings, method, FIVE, rate)


def savings() -> Iterator[Command]:
    """What is saved where a pass costs something."""
    methods = "vanilla lstsd self_regulated regulated_lstsd --self_regulated.distillation none"
    methods += " --lstsd.mini_generation_epochs 2 --regulated_lstsd.mini_generation_epochs 3"
    settings, seeds = f"{L3} --num_train_epochs 6", range(1, 4)
    yield Command("l3_gated", "mrpc", settings, methods, seeds)
    # Features that train: temporal supervision, by the teacher of kd and without.
    named = f"teacher_model_name_or_path runs/{teacher('mrpc', 0.0)}"
    yield Command("l3_gated", "mrpc", settings, f"kd tskd --kd.{named} --tskd.{named} --tskd.interval_epochs 1", seeds)
    yield Command("l3_gated", "mrpc", settings, "tskd --teacher_free True --interval_epochs 1", seeds)
