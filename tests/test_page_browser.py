"""The published page in a browser: it sorts, filters, opens rows, shows charts, asks nobody, logs nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidbench.commands.leaderboard import leaderboard

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed: pip install '.[test]'"
)

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no browser: apt-get install chromium chromium-driver"
)


class Opened:
    """The page in a browser window, freshly opened."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def type(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def emulate(self, command: str, **values: Any) -> None:
        self.driver.execute_cdp_cmd(f"Emulation.{command}", values)

    def screen(self, width: int, height: int = 900) -> None:
        self.emulate(
            "setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def prefer(self, scheme: str = "light", media: str = "") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.emulate("setEmulatedMedia", media=media, features=features)

    def names(self) -> list[str]:
        """The rows of the first table that are to be seen, from the top."""
        return list(
            self.js(
                "return [...document.querySelector('.boardtable').tBodies[0].rows]"
                ".filter(r => r.offsetParent).map(r => r.querySelector('a').textContent)"
            )
        )

    def head(self, label: str) -> Any:
        """The head of a column of the first table."""
        return self.js(
            "return [...document.querySelector('.boardtable').tHead.rows[0].cells]"
            ".find(h => h.textContent.startsWith(arguments[0]))",
            label,
        )

    def cells(self, label: str) -> list[str]:
        return list(
            self.js(
                "const t = document.querySelector('.boardtable');"
                "const i = [...t.tHead.rows[0].cells].findIndex(h => h.textContent.startsWith(arguments[0]));"
                "return [...t.tBodies[0].rows].map(r => r.cells[i].textContent)",
                label,
            )
        )

    def logged(self) -> list[Any]:
        return list(self.driver.get_log("browser"))


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        # No name resolves: a request to anywhere would fail, and be seen.
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        yield found
        found.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the embedded dataset's published records."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copytree(PUBLISHED / "records" / "synthetic", folder / "records" / "synthetic")
    assert leaderboard(folder, check=False, as_json=True) == 0
    return folder / "leaderboard.html"


@pytest.fixture
def page(driver: Any, file: Path) -> Opened:
    opened = Opened(driver)
    opened.screen(1280)
    opened.prefer()
    driver.get(file.as_uri())
    opened.js("try { localStorage.clear() } catch {}")
    opened.logged()
    return opened


def test_it_asks_nobody_and_logs_nothing(page: Opened) -> None:
    page.driver.refresh()
    assert page.js("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert page.logged() == []
    assert page.driver.title == "Semantic-ID leaderboard"


def test_its_policy_refuses_a_request(page: Opened) -> None:
    said = page.driver.execute_async_script(
        "const done = arguments[0]; document.addEventListener('securitypolicyviolation',"
        "e => done(e.violatedDirective)); fetch('http://127.0.0.1:9/').catch(() => {});"
    )
    assert said == "connect-src"


def test_charts_are_to_be_seen(page: Opened) -> None:
    boxes = page.js(
        "return [...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().width,"
        "s.getBoundingClientRect().height, s.querySelectorAll('[data-row]').length])"
    )
    assert len(boxes) >= 8
    assert all(width > 250 and height > 100 and marks for width, height, marks in boxes)


def test_a_click_sorts_and_a_third_puts_back(page: Opened) -> None:
    before = page.names()
    head = page.head("Recall@1")
    button = head.find_element("css selector", "button")
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(v.split(" ")[0]) for v in page.cells("Recall@1")]
    assert values == sorted(values, reverse=True)
    assert page.names() != before
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(v.split(" ")[0]) for v in page.cells("Recall@1")] == sorted(values)
    button.click()
    assert head.get_attribute("aria-sort") == "none"
    assert page.names() == before


def test_what_is_missing_stays_last(page: Opened) -> None:
    head = page.head("SID-level recall@10")
    for _ in range(2):
        page.js("arguments[0].querySelector('button').click()", head)
        cells = page.cells("SID-level recall@10")
        missing = cells.count("–")
        assert missing
        assert set(cells[-missing:]) == {"–"}


def test_names_sort_as_words(page: Opened) -> None:
    page.js("arguments[0].querySelector('button').click()", page.head("Method"))
    assert page.names() == sorted(page.names(), key=str.lower)


def test_a_word_filters_rows_and_marks(page: Opened) -> None:
    total = len(page.names())
    page.find("#filter").send_keys("rq- kmeans-")
    left = page.names()
    assert left
    assert all("rq-" in name and "kmeans-" in name for name in left)
    assert page.js("return document.getElementById('count').value") == f"{len(left)} of {total} rows"
    assert page.js("return document.querySelectorAll('figure [data-row].off').length") > 0
    page.find("#filter").send_keys(" no-such-row")
    assert page.names() == []
    assert page.find(".panel:not([hidden]) .none").is_displayed()
    page.find("#filter").clear()
    assert len(page.names()) == total


def test_a_parameter_filters_too(page: Opened) -> None:
    page.find("#filter").send_keys("planes")
    assert page.names() == []
    page.find("#filter").clear()
    page.find("#filter").send_keys("codebook_size 256 iters")
    assert 0 < len(page.names()) < 13


def test_kinds_of_rows_can_be_hidden(page: Opened) -> None:
    assert "popularity" in page.names()
    page.find("input[value=reference]").click()
    assert "popularity" not in page.names()
    assert "random" in page.names()
    page.find("input[value=floor]").click()
    assert "random" not in page.names()


def test_a_row_opens_with_all_that_is_known_and_closes_again(page: Opened) -> None:
    link = page.find("tbody a.open")
    link.click()
    dialog = page.find("dialog")
    assert dialog.is_displayed()
    for said in ("PARAMETERS", "codebook_size", "MACHINE", "torch", "sidbench run", "RUNS", "seed"):
        assert said.lower() in dialog.text.lower()
    assert page.find("dialog h2").text == link.get_attribute("textContent")
    page.type("\ue00c")  # escape
    assert not dialog.is_displayed()
    assert page.js("return document.activeElement.hash") == page.js("return arguments[0].hash", link)


def test_a_mark_of_a_chart_opens_its_row(page: Opened) -> None:
    mark = page.find("figure path[data-row]")
    name = mark.get_attribute("data-tip").partition(":")[0]
    page.js("arguments[0].scrollIntoView({block: 'center'})", mark)
    webdriver.ActionChains(page.driver).move_to_element(mark).perform()
    assert page.find(".tip").text == mark.get_attribute("data-tip")
    assert page.js("return document.querySelectorAll('figure [data-row].hot').length") > 3
    mark.click()
    assert page.find("dialog h2").text == name


def test_tabs_go_by_click_and_by_arrow(page: Opened) -> None:
    shown = "return [...document.querySelectorAll('.panel')].filter(p => !p.hidden).map(p => p.id.slice(-1))"
    assert page.js(shown) == ["0"]
    page.find("[role=tab]:nth-child(2)").click()
    assert page.js(shown) == ["1"]
    page.type("\ue014")  # arrow right
    assert page.js(shown) == ["2"]
    page.type("\ue011")  # home
    assert page.js(shown) == ["0"]
    assert page.js("return document.activeElement.getAttribute('aria-selected')") == "true"


def test_the_keyboard_reaches_everything(page: Opened) -> None:
    page.type("\ue004")  # tab
    assert page.js("return document.activeElement.className") == "skip"
    assert page.js("return document.activeElement.getBoundingClientRect().top") >= 0
    met = set()
    for _ in range(100):
        page.type("\ue004")
        at = page.js(
            "const e = document.activeElement, outline = getComputedStyle(e).outlineStyle;"
            "return [e.tagName, e.id || e.className || e.parentElement.tagName, outline]"
        )
        if at[0] == "BODY":  # once around
            break
        assert at[2] != "none", at
        met.add(at[1])
    assert {"theme", "filter", "scroll", "TH", "open"} <= met
    head = page.head("NDCG@5")
    page.js("arguments[0].querySelector('button').focus()", head)
    page.type("\ue007")  # enter
    assert head.get_attribute("aria-sort") == "descending"


def ground(page: Opened) -> tuple[str, str]:
    return tuple(
        page.js(
            "return [getComputedStyle(document.body).backgroundColor,"
            "getComputedStyle(document.querySelector('figure text')).fill]"
        )
    )


def test_light_and_dark_follow_the_reader_and_the_button(page: Opened) -> None:
    light = ground(page)
    page.prefer("dark")
    dark = ground(page)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(a != b for a, b in zip(light, dark, strict=True))
    button = page.find("#theme")
    button.click()
    assert button.text == "Theme: light"
    assert ground(page) == light
    page.prefer("light")
    button.click()
    assert button.text == "Theme: dark"
    assert ground(page) == dark
    page.driver.refresh()
    assert ground(page) == dark  # it is kept
    page.prefer("light", media="print")
    assert ground(page)[0] == light[0]  # paper is white


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_never_scrolls_sideways(page: Opened, width: int) -> None:
    page.screen(width)
    page.js("for (const d of document.querySelectorAll('details')) d.open = true")
    assert page.js("return document.documentElement.scrollWidth") <= width
    inside = page.js("const s = document.querySelector('.scroll'); return [s.scrollWidth, s.clientWidth]")
    assert inside[0] >= inside[1]
    page.find("tbody a.open").click()
    assert page.js("return document.querySelector('dialog').scrollWidth") <= width


def test_print_shows_every_table_and_no_tools(page: Opened) -> None:
    page.screen(1030)
    page.prefer("light", media="print")
    assert page.js("return [...document.querySelectorAll('.panel')].every(p => p.offsetHeight > 0)")
    assert not page.find(".tools").is_displayed()
    assert page.js("return document.documentElement.scrollWidth") <= 1030


def test_without_scripts_everything_is_there(page: Opened) -> None:
    page.emulate("setScriptExecutionDisabled", value=True)
    try:
        page.driver.refresh()
        panels = page.driver.find_elements("css selector", ".panel")
        assert len(panels) > 3
        assert all(p.is_displayed() for p in panels)
        assert not page.find(".tools").is_displayed()
        page.find("tbody a.open").click()
        # Following a link opens what it points to.
        assert page.find(":target").is_displayed()
    finally:
        page.emulate("setScriptExecutionDisabled", value=False)
