"""The lab's page in a real browser: Debian's Chromium, with a real Envoy behind."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Route, expect, sync_playwright
from playwright.sync_api import Page as Tab
from support import ROOT, call, command, pause, until
from test_lab import Running

PATIENCE_MS = 60_000
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
WIDTHS = (360, 1024, 1920)
UNANSWERED = "The lab did not answer. The last command may not have been carried out."

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "the package chromium is missing"
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path, "--serve", "--steps", "100/0")
    yield running
    if running.process.poll() is None:
        assert running.end() == 0


def url(lab: Running) -> str:
    found = lab.wait_for(r"Page on (http://127\.0\.0\.1:\d+)\n")[1]
    lab.wait_for("shift with")
    return found


class Opened:
    """A tab, with all that went wrong in it and every request that it made."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.tab: Tab = self.context.new_page()
        self.problems: list[str] = []
        self.requested: list[str] = []
        self.tab.on("console", self.note)
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on("request", lambda request: self.requested.append(request.url))
        self.tab.goto(address)
        expect(self["#link"]).to_have_text(re.compile("^(connected|已连接)$"))

    def note(self, message: object) -> None:
        if getattr(message, "type", "") in ("error", "warning"):
            self.problems.append(getattr(message, "text", ""))

    def __getitem__(self, selector: str) -> Locator:
        return self.tab.locator(selector)

    def press(self, name: str) -> None:
        self.tab.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def opened(browser: Browser, lab: Running) -> Iterator[Opened]:
    made = Opened(browser, url(lab), locale="en-GB")
    yield made
    made.context.close()


def test_a_weight_is_shifted_judged_and_drained(lab: Running, opened: Opened) -> None:
    """By buttons, as a visitor would; the open connections stay until a version is drained."""
    stays = opened["#stays li"]
    expect(opened["#stays li.one"]).to_have_count(20)
    opened["#rate"].select_option("200")
    expect(opened["#headline"]).to_contain_text(re.compile(r"Holds, after \d+ connections"))
    opened.press("50/50")
    lab.wait_for("now v1 50, v2 50")
    expect(opened["#weights"]).to_have_text("v1 50, v2 50")
    expect(opened["#headline"]).to_contain_text("Holds, after")
    expect(opened["#lines"]).to_contain_text("do not contradict one=50,two=50")
    expect(opened["#stays li.one"]).to_have_count(20)  # other weights move none of them
    assert opened["#last pre"].text_content() == "echod lab shift 50/50"
    opened.press("Drain v1")
    lab.wait_for("v1 is draining")
    expect(opened["#stays li.two"]).to_have_count(20)
    expect(opened["#weights"]).to_have_text("v1 0, v2 100")
    expect(opened["#staying"]).to_contain_text("ended so far: 20")
    expect(opened["#headline"]).to_contain_text("Holds, after")
    assert stays.count() == 20
    opened.press("Start v1")
    lab.wait_for("v1 is starting")
    expect(opened["#notes"]).to_contain_text("v1 is ready")
    assert opened.problems == []


def test_a_killed_version_shows_in_errors_readiness_and_verdict(
    lab: Running, opened: Opened
) -> None:
    """And all of it is well again when it is started."""
    opened.press("50/50")
    lab.wait_for("now v1 50, v2 50")
    opened["#rate"].select_option("100")
    opened.press("Kill v2")
    expect(opened["#headline"]).to_contain_text("Too many errors")
    expect(opened["#lines"]).to_contain_text("connections failed, 0 may (--max-errors)")
    card = opened[".version.two"]
    expect(card).to_contain_text("no answer")
    expect(card).to_contain_text("ended")
    deletes = "kubectl -n istio-io-tcp-traffic-shifting delete pod -l app=tcp-echo,version=v2"
    assert deletes in (opened["#last"].text_content() or "")
    for name in ("Drain v2", "Stop v2", "Kill v2"):
        expect(opened.tab.get_by_role("button", name=name)).to_be_disabled()
    expect(opened["#last span"].first).to_have_text("You did · terminal")
    opened.press("Drain v1")
    expect(opened["#answer"]).to_have_text("drain v1: v2 does not run")
    expect(opened["#last span"].first).to_have_text("Not done · terminal")
    assert opened["#last pre"].first.text_content() == "echod lab drain v1"
    opened.press("Start v2")
    expect(card).to_contain_text("200 ok")
    expect(opened.tab.get_by_role("button", name="Drain v2")).to_be_enabled()
    expect(opened["#headline"]).to_contain_text("Holds, after")
    opened.press("Stop v2")
    expect(card).to_contain_text("503 draining")
    expect(card).to_contain_text("no answer")
    assert lab.process.poll() is None
    assert [one for one in opened.problems if "409 (Conflict)" not in one] == []  # the refusal


def test_shifts_of_a_terminal_and_of_a_file_show_in_every_tab(
    browser: Browser, tmp_path: Path
) -> None:
    """At once, and all tabs agree; a browser in Chinese has the page in Chinese."""
    file = tmp_path / "route.yaml"
    shutil.copy(ROOT / "k8s/istio/all-v1/route.yaml", file)
    lab = Running(tmp_path, "--route", str(file))
    address = url(lab)
    english = Opened(browser, address, locale="en-US")
    chinese = Opened(browser, address, locale="zh-CN", color_scheme="dark")
    lab.shift("80/20")
    expect(english["#weights"]).to_have_text("v1 80, v2 20")
    expect(chinese["#weights"]).to_have_text(re.compile("^v1 80.v2 20$"))
    new = tmp_path / "new"
    shutil.copy(ROOT / "k8s/gateway-api/50-50/route.yaml", new)
    new.rename(file)
    for opened in (english, chinese):
        expect(opened.tab.get_by_role("button", name="50/50")).to_have_attribute(
            "aria-pressed", "true"
        )
    file.write_text("<script>document.title = 'x'</script>: [")
    lab.wait_for("is not YAML; v1 50, v2 50 stay")
    expect(chinese["h2#h-verdict"]).to_have_text("判定")
    expect(english["#notes"]).to_contain_text("now v1 50, v2 50")
    expect(chinese["#notes"]).to_contain_text("权重现为 v1 50，v2 50")  # noqa: RUF001  # as Chinese has it
    expect(chinese["#notes [lang]"]).to_have_count(0)  # all of it is translated
    assert chinese["html"].get_attribute("lang") == "zh-CN"
    for opened in (english, chinese):
        assert opened.problems == []
        assert all(one.startswith(f"{address}/") for one in opened.requested)
        opened.context.close()
    assert lab.end() == 0


def test_the_keyboard_and_the_slider_shift_too(lab: Running, opened: Opened) -> None:
    """Each control is reached by Tab, and does what it says by keys."""
    opened["#slider"].focus()
    for _ in range(3):
        opened.tab.keyboard.press("ArrowLeft")
    lab.wait_for("now v1 97, v2 3")
    expect(opened["#slider"]).to_have_attribute("aria-valuetext", "v1 97, v2 3")
    for _ in range(60):
        opened.tab.keyboard.press("Tab")
        if opened.tab.evaluate("document.activeElement.dataset.command") == "kill v1":
            break
    opened.tab.keyboard.press("Enter")
    lab.wait_for("v1 is killed")


def test_the_slider_shows_the_chosen_weights_until_they_are_answered(
    lab: Running, opened: Opened
) -> None:
    """Nothing from elsewhere changes them meanwhile; afterwards it does, focus or not."""
    slider = opened["#slider"]
    held: list[Route] = []
    opened.tab.route("**/command", lambda route: held.append(route))  # noqa: PLW0108  # no builtin
    opened.tab.evaluate(
        "window.heard = new Set(); const one = document.getElementById('slider');"
        "new MutationObserver(() => heard.add(one.getAttribute('aria-valuetext') + one.value))"
        ".observe(document.body, { subtree: true, childList: true, attributes: true })"
    )
    slider.focus()
    with opened.tab.expect_request("**/command"):  # in one go: the slider waits 0.35 s for more
        opened.tab.evaluate(
            "const one = document.getElementById('slider'); for (const value of [99, 98, 97])"
            " { one.value = value; one.dispatchEvent(new Event('input')); }"
        )
    lab.shift("80/20")
    expect(opened["#t-envoy"]).to_have_text("80 : 20")
    expect(opened["#t-v1"]).to_have_text("80 %")
    expect(opened["#weights"]).to_have_text("v1 97, v2 3")
    expect(slider).to_have_value("97")
    assert set(opened.tab.evaluate("[...heard]")) <= {
        "v1 100, v2 0100",
        "v1 99, v2 199",
        "v1 98, v2 298",
        "v1 97, v2 397",
    }
    (only,) = held
    only.continue_()
    opened.tab.unroute("**/command")
    lab.wait_for("now v1 97, v2 3")
    lab.shift("50/50")
    expect(slider).to_have_value("50")
    expect(slider).to_have_attribute("aria-valuetext", "v1 50, v2 50")
    expect(opened["#weights"]).to_have_text("v1 50, v2 50")
    opened.tab.keyboard.press("ArrowLeft")
    lab.wait_for("now v1 49, v2 51")


def test_the_rate_follows_a_terminal_with_the_focus_too(lab: Running, opened: Opened) -> None:
    """A rate that is chosen stays until it is answered; one that the list lacks is added."""
    rate = opened["#rate"]
    held: list[Route] = []
    opened.tab.route("**/command", lambda route: held.append(route))  # noqa: PLW0108  # no builtin

    def ask(rate: str) -> None:
        words = command("lab", "traffic", rate)
        result = call(lab.directory, words, TMPDIR=str(lab.temporary))
        assert (result.returncode, result.stdout) == (0, f"traffic {rate}\n")

    rate.focus()
    ask("33")
    expect(rate).to_have_value("33")
    with opened.tab.expect_request("**/command"):
        opened.tab.keyboard.press("Home")
    ask("10")
    expect(opened["#t-client"]).to_have_text("10/s")
    expect(rate).to_have_value("1")
    held.pop().continue_()
    lab.wait_for("traffic 1\n")
    expect(opened["#t-client"]).to_have_text("1/s")
    ask("50")
    expect(rate).to_have_value("50")


def test_a_refused_choice_gives_the_slider_back(lab: Running, opened: Opened) -> None:
    """And a button's weights take the place of those that were just chosen."""
    slider = opened["#slider"]
    opened.tab.route("**/command", lambda route: route.abort())
    slider.focus()
    opened.tab.keyboard.press("ArrowLeft")
    expect(opened["#answer"]).to_have_text(UNANSWERED)
    expect(opened["#last span"]).to_have_text("No answer, perhaps not done · terminal")
    assert opened["#last pre"].text_content() == "echod lab shift 99/1"
    expect(slider).to_have_value("100")
    expect(slider).to_have_attribute("aria-valuetext", "v1 100, v2 0")
    expect(opened["#weights"]).to_have_text("v1 100, v2 0")
    opened.tab.unroute("**/command")
    opened.tab.evaluate(
        "const one = document.getElementById('slider'); one.value = 30;"
        "one.dispatchEvent(new Event('input'));"
        "document.querySelector('[data-command=\"shift 80/20\"]').click()"
    )
    lab.wait_for("now v1 80, v2 20")
    expect(slider).to_have_value("80")
    pause(1.0, "the slider waits 0.35 s for another value")
    assert "now v1 30" not in lab.said()


def test_hostile_names_are_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    """A server that answers with markup in place of v2."""
    hostile = "<img src=x onerror=alert(1)>"
    script = (
        f"import sys; from echod.lab import version; prefixes = {{'v1': 'one', 'v2': {hostile!r}}};"
        "version.VERSIONS = prefixes; from echod.cli import main; sys.exit(main())"
    )
    lab = Running(tmp_path, "--serve", "--steps", "50/50", by=[*command()[:1], "-c", script])
    opened = Opened(browser, url(lab), locale="en")
    expect(opened["#rows .other b"]).to_have_text(hostile)
    expect(opened["#lines"]).to_contain_text(f"{hostile} is unexpected")
    assert opened["img"].count() == 0
    assert opened.problems == []
    opened.context.close()
    assert lab.end() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, lab: Running, scheme: str) -> None:
    """At three widths, with everything open; and nothing is wider than the window."""
    address = url(lab)
    for width in WIDTHS:
        size = {"width": width, "height": 900}
        opened = Opened(browser, address, locale="en", color_scheme=scheme, viewport=size)
        expect(opened["#headline"]).to_contain_text("connections")
        opened.tab.evaluate(
            "document.querySelectorAll('details').forEach((one) => one.open = true)"
        )
        opened.press("Judge anew")
        expect(opened["#last pre"]).to_have_text("echod lab judge")
        wide = opened.tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        found = Axe().run(opened.tab)
        assert found.violations_count == 0, found.generate_report()
        opened.context.close()


def test_a_hidden_tab_costs_nothing_and_the_end_is_shown(lab: Running, opened: Opened) -> None:
    """It closes its stream, and opens it again when it is seen; then it says that the lab ended."""
    opened.tab.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    before = opened["#second"].text_content()
    lab.shift("0/100")
    time_of_shift = lab.wait_for("now v1 0, v2 100")
    assert time_of_shift
    assert opened["#weights"].text_content() == "v1 100, v2 0"
    assert opened["#second"].text_content() == before
    opened.tab.evaluate(
        "Object.defineProperty(document, 'hidden', {value: false, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    expect(opened["#weights"]).to_have_text("v1 0, v2 100")
    assert lab.end(signal.SIGINT) == 0
    expect(opened["#link"]).to_contain_text("the lab has ended")


def test_reduced_motion_is_respected(browser: Browser, lab: Running) -> None:
    """No dots travel; the numbers say the same."""
    opened = Opened(browser, url(lab), locale="en", reduced_motion="reduce")
    expect(opened["#second"]).to_contain_text("Last second: v1")
    blank = (
        "(() => { const one = document.querySelector('canvas'), pen = one.getContext('2d');"
        " const data = pen.getImageData(0, 0, one.width, one.height).data; let dots = 0;"
        " for (let i = 0; i < data.length; i += 4)"
        " if (data[i + 3] > 200 && data[i + 2] > 180 && data[i] < 60) dots++; return dots; })()"
    )
    assert opened.tab.evaluate(blank) == 0
    opened.context.close()
    moving = Opened(browser, url(lab), locale="en")
    until(lambda: moving.tab.evaluate(blank) > 0)
    moving.context.close()


def test_a_taken_page_port_warns_and_the_lab_runs(lab: Running, tmp_path: Path) -> None:
    """As it does without a page, where none is wanted."""
    port = url(lab).rpartition(":")[2]
    own = tmp_path / "second"
    own.mkdir()
    second = Running(own, "--serve", "--page-port", port)
    second.wait_for(rf"echod: warning: --page-port {port}: .*; the lab runs without its page\n")
    second.wait_for("shift with")
    assert "Page on" not in second.said()
    words = command("lab", "traffic", "5")
    refused = call(own, words, TMPDIR=str(second.temporary))
    assert refused.returncode == 1
    assert refused.stderr == "echod: error: traffic: the lab runs without its page\n"
    assert second.end() == 0
    third = tmp_path / "third"
    third.mkdir()
    without = Running(third, "--serve", "--page-port", "none")
    without.wait_for("shift with")
    assert "Page on" not in without.said()
    assert "warning" not in without.said()
    assert without.end() == 0


def test_faults_from_a_terminal_do_what_the_buttons_do(lab: Running) -> None:
    """Without a tab too; a lab that walks through its steps refuses them."""
    lab.wait_for("shift with")

    def ask(*words: str) -> tuple[int, str]:
        result = call(lab.directory, command("lab", *words), TMPDIR=str(lab.temporary))
        return result.returncode, result.stdout + result.stderr

    assert ask("stop", "v2") == (0, "v2 is stopping\n")
    until(lambda: ask("start", "v2") == (0, "v2 is starting\n"))
    until(lambda: ask("drain", "v1") == (0, "v1 is draining\n"))
    assert "now v1 0, v2 100" in lab.said()
    assert ask("traffic", "50") == (0, "traffic 50\n")
    assert ask("judge") == (0, "judging anew\n")
    until(lambda: ask("kill", "v1")[0] == 1)
    assert ask("drain", "v2") == (1, "echod: error: drain v2: v1 does not run\n")
    assert ask("shift", "80/20") == (0, "now v1 80, v2 20\n")
    assert ask("drain", "v1") == (1, "echod: error: drain v1: it has ended\n")
    assert lab.said().count("now v1 0, v2 100") == 1  # the refused drain has shifted nothing
