"""The tables on pictures: the paper's Tables 1 and 3, its Figure 2, wrong labels, and more epochs."""

from collections.abc import Iterable
from dataclasses import replace

from lstsd_hf.experiments.published import published_score
from lstsd_hf.experiments.report import shown_difference, shown_spread
from lstsd_hf.experiments.statistics import PairedDifference, holm, mean_and_std, paired_difference

from .analysis import NAMES, Cell, by_length, cells, nll, score, with_control
from .tables import NOT_RUN, Tested, cell_sections, table, unfinished

# What LSTSD is made of, in the order of the paper's Table 3.
PARTS = ("lstsd_no_long", "lstsd_no_short", "lstsd_single", "temporal_ensemble-6.4", "mean_teacher")
# What V3's family compares with vanilla.
ROBUST = ("elr", "sat")


def images_table() -> str:
    """V1: every method of the paper, corrected for their number."""
    tested = [(cell, against_vanilla(cell, cell.groups.keys() - {"vanilla"})) for cell in planned_cells()]
    return cell_sections(["images"], tested)


def planned_cells() -> list[Cell]:
    """V1's cells; LSTSD with other E is V2's."""
    return [
        replace(cell, groups={name: group for name, group in cell.groups.items() if not name.startswith("lstsd-E")})
        for cell in cells("images")
    ]


def images_parts() -> str:
    """V1: LSTSD − what has one teacher, beside the paper's difference."""
    rows = []
    for cell in cells("images"):
        for name in [name for name in PARTS if {name, "lstsd"} <= cell.groups.keys()]:
            found = paired_difference(score(cell, cell.groups["lstsd"]), score(cell, cell.groups[name]))
            papers = [published_score("resnet20", "cifar100", method) for method in ("lstsd", name)]
            paper = "–" if None in papers else f"{papers[0] - papers[1]:+.2f}"
            rows.append([NAMES[name], str(found.count), shown_difference(found, found.count), paper])
    header = ["LSTSD −", "n", "difference [95 % CI]", "paper, CIFAR-100"]
    return "\n\n".join([*unfinished("images"), table(header, rows)]) if rows else NOT_RUN


def images_epochs_table() -> str:
    """V4: as many steps in more epochs of fewer pictures."""
    found = [replace(cell, name="Fashion-MNIST (2,500 pictures), 80 epochs") for cell in cells("images_epochs")]
    tested = [(cell, against_vanilla(cell, cell.groups.keys() - {"vanilla"})) for cell in found]
    return cell_sections(["images_epochs"], tested)


def images_lengths() -> str:
    """V2: LSTSD by E."""
    rows = [
        [
            str(length),
            str(len(group.results)),
            *(
                shown_spread(mean_and_std([*values(cell, group).values()]), digits)
                for values, digits in ((score, 2), (nll, 3))
            ),
        ]
        for cell in cells("images")
        for length, group in by_length(cell).items()
    ]
    return "\n\n".join([*unfinished("images"), table(["E", "n", "accuracy", "NLL"], rows)]) if rows else NOT_RUN


def images_noise_table() -> str:
    """V3: what ELR and SAT gain where labels are wrong, beside LSTSD and a short run."""
    short = {cell.name: cell.groups["vanilla"] for cell in cells("images_noise_short")}
    found = with_control(cells("images_noise"), "vanilla-short-10", short)
    tested = [(cell, against_vanilla(cell, cell.groups.keys() & {*ROBUST})) for cell in found]
    return cell_sections(["images_noise", "images_noise_short"], tested)


def lstsd_on_pictures() -> list[tuple[PairedDifference, float]]:
    """LSTSD − vanilla with its adjusted p-value, for 20 epochs (V1) and for 80 of fewer pictures (V4)."""
    return [
        against_vanilla(cell, cell.groups.keys() - {"vanilla"})["lstsd"]
        for cell in (*planned_cells(), *cells("images_epochs"))
    ]


def against_vanilla(cell: Cell, names: Iterable[str]) -> Tested:
    """Differences of some methods to vanilla, with p-values corrected for their number."""
    names = sorted(names)
    vanilla = score(cell, cell.groups["vanilla"])
    found = [paired_difference(score(cell, cell.groups[name]), vanilla) for name in names]
    p_values = holm([difference.p_value for difference in found])
    return dict(zip(names, zip(found, p_values, strict=True), strict=True))
