"""The report of a recorded run: its files, and its page in a browser."""

import csv
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import torch

from lstsd_hf.dynamics import History, statistics
from lstsd_hf.dynamics.__main__ import main
from lstsd_hf.dynamics.files import EXAMPLES_NAME, EpochTable, epoch_path, write_epoch, write_examples
from lstsd_hf.dynamics.report import write_report
from lstsd_hf.errors import InputError

HOSTILE = [
    '</script><script>document.body.dataset.hacked = "yes"</script>',
    "</script async <!-- <script a=b",
    "<img src=x onerror=\"document.body.dataset.hacked = 'yes'\">",
    "\u202eright to left\u202c and back",
    "emoji \U0001f389\U0001f469\u200d\U0001f4bb, /*PLOTLY*/ and /*SCRIPT*/",
    "line " * 20_000,
    '"quoted", with, commas\nand a line break',
]


def record(folder, count, epochs=6, texts=None, label_names=("no", "yes <b>really</b>")):
    random = np.random.default_rng(0)
    given = random.integers(0, 2, count)
    # Harder and easier examples, the first ones mislabelled.
    pull = random.normal(1.0, 1.0, count) * np.where(np.arange(count) < count // 10, -1, 1)
    for epoch in range(epochs):
        own = pull * (epoch + 1) / 3 + random.normal(0, 0.5, count)
        logits = torch.tensor(np.stack([np.where(given == label, own, 0) for label in (0, 1)], axis=1))
        write_epoch(epoch_path(folder, epoch), EpochTable(logits.log_softmax(-1).float().numpy(), given))
    texts = [*(texts or []), *(f"text number {row}" for row in range(len(texts or []), count))]
    write_examples(folder / EXAMPLES_NAME, texts, list(label_names))
    return folder


def test_the_files_say_what_the_statistics_say(tmp_path, capsys):
    (tmp_path / "dynamics").mkdir()
    record(tmp_path / "dynamics", 40)
    main(["report", str(tmp_path)])
    tmp_path /= "dynamics"
    assert f"Wrote {tmp_path / 'report' / 'report.html'}" in capsys.readouterr().out
    table = statistics(History.read(tmp_path))
    for found in (
        pd.read_parquet(tmp_path / "report" / "statistics.parquet"),
        pd.read_csv(tmp_path / "report" / "statistics.csv"),
    ):
        pd.testing.assert_frame_equal(found, table, check_dtype=False)
    for name in ("data_map.png", "curves.png"):
        assert (tmp_path / "report" / name).read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(SystemExit, match=r"error: .* must have the files of all epochs"):
        main(["report", str(tmp_path / "report")])


def test_a_run_without_labels_has_no_report(tmp_path):
    log_probs = np.log(np.full((3, 2), 0.5, dtype=np.float32))
    write_epoch(epoch_path(tmp_path, 0), EpochTable(log_probs, np.full(3, -1)))
    with pytest.raises(InputError, match="must have labels that are classes, found none"):
        write_report(tmp_path)


# ---- In a browser ----

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
in_a_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture
def browse(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    drivers = []

    def browse(page):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in ("headless=new", "no-sandbox", "enable-unsafe-swiftshader", "window-size=1400,1200"):
            options.add_argument(f"--{argument}")
        options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        drivers.append(driver)
        driver.get(page.as_uri())
        wait(lambda: driver.execute_script("return document.body.dataset.ready") == "yes")
        return driver

    yield browse
    for driver in drivers:
        driver.quit()


def wait(is_so, seconds=20):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@in_a_browser
def test_the_page_in_a_browser(tmp_path, browse):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    driver = browse(write_report(record(tmp_path, 400, texts=HOSTILE)))

    def count():
        return int(re.match(r"[\d,]+", driver.find_element(By.ID, "count").text)[0].replace(",", ""))

    def search(text):
        box = driver.find_element(By.ID, "search")
        driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", box, text
        )

    assert count() == 400
    # Texts are texts, whatever is in them.
    shown = "return [...document.querySelectorAll('td.text div')].map((cell) => cell.textContent)"
    for text in HOSTILE:
        search(text.lower().split("\n")[0])
        wait(lambda text=text: driver.execute_script(shown) == [text])
    search("")
    wait(lambda: count() == 400)
    assert driver.execute_script("return document.body.dataset.hacked") is None
    # Filters.
    table = statistics(History.read(tmp_path))
    Select(driver.find_element(By.ID, "region")).select_by_value("disagree")
    assert count() == (table["given"] != table["believed"]).sum()
    Select(driver.find_element(By.ID, "region")).select_by_value("")
    Select(driver.find_element(By.ID, "given")).select_by_visible_text("yes <b>really</b>")
    assert count() == (table["given"] == 1).sum()
    Select(driver.find_element(By.ID, "given")).select_by_value("")
    # The most suspicious first, and marked rows are exported.
    ranked = table.sort_values("suspicion", ascending=False, kind="stable")
    first = driver.find_elements(By.CSS_SELECTOR, "#rows tr")[:3]
    assert [int(row.find_elements(By.TAG_NAME, "td")[1].text) for row in first] == ranked["index"].head(3).tolist()
    for row in first[:2]:
        row.find_element(By.TAG_NAME, "input").click()
    driver.find_element(By.ID, "export").click()
    exported = tmp_path / "downloads" / "suspects.csv"
    wait(exported.exists)
    with exported.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == ranked["index"].head(2).tolist()
    assert [row["text"] for row in rows] == ranked["text"].head(2).tolist()
    # Hover and select.
    plot = driver.find_element(By.CSS_SELECTOR, "#map .nsewdrag")
    x, y = driver.execute_script(
        "const map = document.getElementById('map'), { xaxis, yaxis } = map._fullLayout, trace = map.data[0];"
        "return [xaxis.d2p(trace.x[0]) - xaxis._length / 2, yaxis.d2p(trace.y[0]) - yaxis._length / 2]"
    )
    ActionChains(driver).move_to_element_with_offset(plot, int(x), int(y)).perform()
    wait(lambda: "believed" in driver.find_element(By.CSS_SELECTOR, "#map .hoverlayer").text)
    ActionChains(driver).move_to_element_with_offset(plot, -150, 0).click_and_hold().move_by_offset(
        300, 230
    ).release().perform()
    wait(lambda: count() < 400)
    assert count() > 0
    driver.find_element(By.ID, "clear").click()
    wait(lambda: count() == 400)
    # Nothing is loaded and nothing fails.
    assert driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@in_a_browser
def test_both_teachers_beside_the_model(tmp_path, browse):
    record(tmp_path, 40)
    main(["report", str(tmp_path), "--mini_generation_epochs", "2"])
    driver = browse(tmp_path / "report" / "report.html")
    history = History.read(tmp_path)
    own = history.given_probabilities[:, statistics(history)["suspicion"].argmax()]
    expected = {"own": own, "short": own[[1, 2, 3, 4]], "long": own[[1, 1, 3, 3]]}
    for name, values in expected.items():
        line = driver.execute_script(f"return document.querySelector('#rows polyline.{name}').getAttribute('points')")
        heights = np.array([float(point.split(",")[1]) for point in line.split()])
        np.testing.assert_allclose((21 - heights) / 20, values, atol=0.01)
    assert "6 epochs" in driver.page_source
    with pytest.raises(SystemExit, match="`mini_generation_epochs` must be at least 1, got 0"):
        main(["report", str(tmp_path), "--mini_generation_epochs", "0"])


@in_a_browser
def test_a_page_of_labels_judged_out_of_sample(tmp_path, browse):
    given = np.arange(40) % 2
    log_probs = torch.randn(40, 2).log_softmax(-1).numpy()
    write_epoch(epoch_path(tmp_path, 0), EpochTable(log_probs, given, out_of_sample=True))
    driver = browse(write_report(tmp_path))
    assert "40 examples, cross-validated, 2 labels." in driver.page_source
    assert "Out of sample: by models that did not train on these examples." in driver.page_source
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@in_a_browser
@pytest.mark.slow
def test_a_page_of_sst2s_size(tmp_path, browse):
    page = write_report(record(tmp_path, 67_349, epochs=10))
    driver = browse(page)
    (painted,) = driver.execute_script(
        "return performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"
    )
    print(f"{page.stat().st_size / 2**20:.1f} MiB, first paint after {painted:.0f} ms")
    assert painted <= 3000
