"""The measured blocks of the pages: docs/results.md, README.md and the pages of methods."""

from .analysis import (
    NAMES,
    cells,
    cnn_cells,
    compare,
    l3_cells,
    mlp_cells,
    nll,
    ranking,
)
from .cleaning_table import cleaning_table
from .gpu_tables import gpu_against_controls
from .history_table import history_table
from .image_tables import images_epochs_table, images_lengths, images_noise_table, images_parts, images_table
from .judgement import (
    NUM_CELLS,
    constant_rate_table,
    full_judgement_tables,
    judged_cells,
    judgement_tables,
    lengths_table,
    prototype_table,
    ranking_table,
)
from .neighbours_table import GATED, backward_table, neighbours, savings_table, teachers_table
from .search_tables import search_lengths_table, search_table
from .sentences import (
    cnn_sentence,
    cost_sentence,
    full_sentences,
    is_cnn_finished,
    paper_table,
    when_to_use,
)
from .settings_tables import cell_costs, defaults, method_costs, rate_table, searches
from .summary import honest_lines
from .tables import (
    CONTROLS,
    NOISY,
    OF_CNN,
    OF_L3,
    TEMPORAL,
    adjusted_in_one_family,
    cell_sections,
    cell_tables,
    family,
    family_columns,
    full_tables,
    label_error_tables,
    length_table,
    memory_families,
    single_seed_table,
)
from .tagging_table import tagging_errors_table, tagging_table


def results_blocks() -> dict[str, str]:
    """Every row of every table."""
    mlp, tuned = mlp_cells(), cells("mlp_tuned")
    noisy = [cell for cell in mlp if cell.rate]
    return {
        "primary": family(mlp, "lstsd", "vanilla"),
        "against-tuned": family(mlp, "lstsd", "vanilla-tuned"),
        "against-short": family(mlp, "lstsd", "vanilla-short"),
        "against-stopped": family(mlp, "lstsd", "vanilla-stopped"),
        "short": family(cells("mlp_short"), "lstsd-defaults", "vanilla"),
        "against-temporal": family(mlp, "lstsd", TEMPORAL),
        "against-smoothing": family(mlp, "lstsd", "label_smoothing"),
        "tuned-against-tuned": family(mlp, "lstsd-tuned", "vanilla-tuned"),
        "nll": family(mlp, "lstsd", "vanilla", values=nll),
        "nll-controls": family_columns(
            {NAMES[name]: compare(mlp, "lstsd", name, nll) for name in list(CONTROLS.values())[1:]}, 3
        ),
        "mlp": cell_tables("mlp", mlp),
        "memory-against-model": family(
            noisy, "lstsd", "vanilla", ranking("memory"), second_values=ranking("model"), count=NOISY
        ),
        "memory-against-others": family_columns(memory_families(noisy), 2),
        "label-errors": label_error_tables(noisy),
        "length": length_table(mlp),
        "stacked": family(tuned, "lstsd", "vanilla"),
        "stacked-temporal": family(tuned, "lstsd", TEMPORAL),
        "mlp-tuned": cell_tables("mlp_tuned", tuned),
        "cnn": cell_tables_in_one_family("cnn"),
        "cnn-against-tuned": family(cnn_cells("cnn"), "lstsd", "vanilla-tuned", **OF_CNN),
        "cnn-against-temporal": family(cnn_cells("cnn"), "lstsd", TEMPORAL, **OF_CNN),
        "cnn-rates": rate_table(),
        "cnn-fitting": cell_tables_in_one_family("cnn_fitting"),
        "cnn-fitting-against-tuned": family(cnn_cells("cnn_fitting"), "lstsd", "vanilla-tuned", **OF_CNN),
        "cnn-fitting-against-temporal": family(cnn_cells("cnn_fitting"), "lstsd", TEMPORAL, **OF_CNN),
        "top-layer": cell_tables("top_layer", cells("top_layer")),
        "top-layer-against-tuned": family(cells("top_layer"), "lstsd", "vanilla-tuned", count=2),
        "full": cell_tables("full", cells("full")),
        "gpu": full_tables("gpu"),
        "gpu-against-controls": gpu_against_controls(),
        "gpu-short": full_tables("gpu_short"),
        "l3": full_tables("l3"),
        "l3-against-short": family(l3_cells(), "lstsd", "vanilla-short", **OF_L3),
        "neighbours": neighbours("mlp_targets", ["ps_kd", "elr", "sat"]),
        "neighbours-kd": neighbours("mlp_kd", ["kd"]),
        "teachers": teachers_table(),
        "kd-cnn": cell_tables("kd_cnn", cells("kd_cnn")),
        "kd-minilm": cell_tables("kd_minilm", cells("kd_minilm")),
        "neighbours-gated": neighbours("mlp_gated", ["dlb-overlap", "self_regulated", "self_regulated-hybrid", GATED]),
        "savings": savings_table(),
        "backward": backward_table(),
        "judgement": judgement_tables(),
        "judgement-ranking": ranking_table(),
        "judgement-against-short": family(judged_cells(), "lstsd", "vanilla-short", count=NUM_CELLS),
        "judgement-lengths": lengths_table(),
        "judgement-lengths-constant": lengths_table(constant=True),
        "judgement-constant": constant_rate_table(),
        "judgement-l3": full_judgement_tables(),
        "judgement-prototype": prototype_table(),
        "anchor-search": search_table(),
        "anchor-search-lengths": search_lengths_table(),
        "images": images_table(),
        "images-parts": images_parts(),
        "images-lengths": images_lengths(),
        "images-epochs": images_epochs_table(),
        "images-noise": images_noise_table(),
        "tagging": tagging_table(),
        "tagging-errors": tagging_errors_table(),
        "history": history_table(),
        "cleaning": cleaning_table(),
        "defaults": defaults(),
        "searches": searches(),
        "single-seed-glue": single_seed_table(cells("single_seed_glue")),
        "single-seed-mrpc": single_seed_table(cells("single_seed_mrpc_minilm")),
        "single-seed-cnn": single_seed_table(cells("single_seed_mrpc_cnn")),
        "cells": cell_costs(),
    }


def cell_tables_in_one_family(records: str) -> str:
    """The same for the CNN, corrected for the number of methods in all cells together."""
    among = cnn_cells(records)
    sections = cell_sections([records, "cnn_tuned"], list(zip(among, adjusted_in_one_family(among), strict=True)))
    return f"{cnn_sentence(records)}\n\n{sections}" if is_cnn_finished(records) else sections


def conclusion_blocks() -> dict[str, str]:
    """What follows from the tables of docs/results.md."""
    return {
        "in-short": honest_lines(),
        "full-sentences": full_sentences(),
        "when-to-use": when_to_use(),
        "paper": paper_table(),
    }


def readme_blocks() -> dict[str, str]:
    """The measured parts of README."""
    return {"honest": honest_lines("docs/"), "cost": cost_sentence()}


def methods_blocks() -> dict[str, str]:
    """The measured parts of docs/methods/index.md."""
    return {"costs": method_costs()}
