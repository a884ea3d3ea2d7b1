"""The pages in a real browser: `make pages`. PAGES_RUN=RUN talks to that run's pair too, and PAGES_SHOTS=FOLDER keeps pictures of it."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.agents_stub import CHAIN, Agents
from benchmarks.served import command
from insightv import corrections
from tests.serving.conftest import make_run

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make pages")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no Chromium here")
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Names that are not this machine's lead nowhere: what a page asks for elsewhere fails, and is seen.
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        rules = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        yield playwright.chromium.launch(executable_path=BROWSER, args=[*quiet, *rules])


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must neither complain nor ask anybody else for anything."""
    found = browser.new_page(viewport={"width": 1200, "height": 820})
    complaints: list[str] = []
    found.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("request", lambda request: complaints.append(request.url) if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")) else None)
    yield found
    assert complaints == []
    found.close()


def chat(page: Any, url: str, question: str, picture: bytes, modes: tuple[str, ...] = ("Pair",)) -> None:
    page.goto(url)
    page.set_input_files("#file", [{"name": "a.png", "mimeType": "image/png", "buffer": picture}])
    for name in ("Pair", "Reasoner alone", "Direct answer"):
        page.get_by_label(name, exact=True).set_checked(name in modes)
    page.fill("#question", question)
    page.click("#send")


def test_a_chain_unfolds_in_its_steps_and_the_answer_stands_below(page: Any, served: Callable[..., Any], png: bytes) -> None:
    server = served(Agents(rate=100))
    chat(page, server.url, "Which colour?", png, ("Pair", "Reasoner alone", "Direct answer"))
    sync_api.expect(page.locator("details.chain").first).to_have_attribute("open", "")
    sync_api.expect(page.locator("li strong").first).to_have_text("Look")
    for column, answer in enumerate(("red", "red", "blue")):
        sync_api.expect(page.locator(".answer").nth(column)).to_have_text(answer)
        sync_api.expect(page.locator(".note").nth(column)).to_contain_text("tokens")
    sync_api.expect(page.locator("summary").first).to_contain_text("Thought in 3 steps")
    assert page.locator("details.chain").first.get_attribute("open") is None
    page.fill("#question", "And now?")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("article").nth(1).locator(".note").first).to_contain_text("tokens")
    assert [message["role"] for message in server.agents.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert len(page.locator("article").nth(1).locator("img").all()) == 0


def test_what_models_say_is_text_and_never_markup(page: Any, served: Callable[..., Any], png: bytes) -> None:
    chain = CHAIN.replace("Look", f"Look {HOSTILE}").replace("It is red.", HOSTILE)
    server = served(Agents({"reasoner": chain, "summarizer": HOSTILE}))
    chat(page, server.url, HOSTILE, png)
    sync_api.expect(page.locator(".note").first).to_contain_text("tokens")
    assert page.locator(".answer").first.text_content() == HOSTILE
    assert page.title() == "Insight-V" and page.locator("#turns img").count() == 1 and page.locator("#turns script").count() == 0


def test_a_failure_and_a_stop_are_told(page: Any, served: Callable[..., Any], png: bytes) -> None:
    server = served(Agents(rate=5))
    chat(page, server.url, "Which colour?", png)
    sync_api.expect(page.locator("li strong").first).to_have_text("Look", timeout=10_000)
    page.click("#stop")
    sync_api.expect(page.locator(".note").first).to_have_text("Stopped.")
    while server.agents.open:
        page.wait_for_timeout(20)
    server.agents.rate, server.agents.breaks_after = 0, 3
    page.fill("#question", "And now?")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(".note.error")).to_have_count(2)
    sync_api.expect(page.locator(".note.error").last).to_contain_text("an agent failed")


def test_the_page_asks_for_the_key_as_browsers_do(browser: Any, served: Callable[..., Any], png: bytes) -> None:
    server = served(key="a key")
    context = browser.new_context(http_credentials={"username": "me", "password": "a key"})
    chat(page := context.new_page(), server.url, "Which colour?", png)
    sync_api.expect(page.locator(".answer").first).to_have_text("red")
    context.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The viewer of a small run as a user starts it: its address and the run."""
    run = make_run(tmp_path_factory.mktemp("runs") / "mine")
    with command("view", run) as (url, _):
        yield url, run


def chosen_row(page: Any) -> Any:
    return page.locator(".result.chosen")


def test_back_leads_back(page: Any, data: tuple[str, Path]) -> None:
    """Rows are no places in the history, filters are."""
    page.goto("about:blank")
    page.goto(f"{data[0]}/data")
    sync_api.expect(chosen_row(page)).to_have_count(1)
    for _ in range(3):
        page.keyboard.press("j")
    page.locator("select[name=verdict]").select_option("wrong")
    sync_api.expect(page.locator(".result .verdict.right")).to_have_count(0)
    sync_api.expect(chosen_row(page)).to_have_count(1)
    page.go_back()
    sync_api.expect(page.locator(".result .verdict.right").first).to_be_visible()
    page.go_back()
    sync_api.expect(page).to_have_url("about:blank")


def test_the_keys_go_through_all_rows_and_load_more(page: Any, data: tuple[str, Path]) -> None:
    page.goto(f"{data[0]}/data")
    sync_api.expect(chosen_row(page)).to_have_count(1)
    for _ in range(59):
        page.keyboard.press("j")
    sync_api.expect(page.locator(".result")).to_have_count(60)
    sync_api.expect(page.locator(".result").last).to_have_class("result chosen")
    page.get_by_role("button", name="Pairs").click()
    for at in (0, 1):
        sync_api.expect(page.locator(".result").nth(at)).to_have_class("result pair chosen")
        page.keyboard.press("j")
    page.keyboard.press("/")
    page.get_by_role("button", name="Plots").click()
    sync_api.expect(page.locator("figure svg").first).to_be_visible()


def test_what_is_said_by_hand_quickly_is_all_kept_and_shown(page: Any, data: tuple[str, Path]) -> None:
    url, run = data
    page.route("**/data/corrections", lambda route: (time.sleep(0.2), route.continue_())[1])
    page.goto(f"{url}/data?chain={7:016x}{0:016x}&problem={7:032x}")
    by_hand = page.locator("article.chosen .hand")
    sync_api.expect(by_hand.get_by_text("Right")).to_be_visible()
    for key in ("w", "f"):
        page.keyboard.press(key)
    for name in ("Wrong", "Flag"):
        sync_api.expect(by_hand.get_by_text(name)).to_have_attribute("aria-pressed", "true")
    by_hand.get_by_label("Note").fill("it is blue")
    by_hand.get_by_label("Note").press("Tab")
    sync_api.expect(chosen_row(page).locator(".by-hand")).to_have_attribute("title", "by hand; before: right; flagged by hand; it is blue")
    sync_api.expect(chosen_row(page).locator(".verdict.wrong")).to_have_text("✗⚑")
    [said] = corrections.read(run).values()
    assert (said.correct, said.flagged, said.note) == (False, True, "it is blue")
    page.locator("select[name=hand]").select_option("any")
    sync_api.expect(page.locator(".result")).to_have_count(1)


def test_a_server_that_is_gone_is_told_once(browser: Any, data: tuple[str, Path]) -> None:
    page = browser.new_page()
    page.goto(f"{data[0]}/data")
    sync_api.expect(chosen_row(page)).to_have_count(1)
    page.route("**/data/*", lambda route: route.abort())
    page.route("**/data/problems/*", lambda route: route.abort())
    for key in ("j", "j", "r"):
        page.keyboard.press(key)
    sync_api.expect(page.get_by_role("alert")).to_have_text("The server does not answer.")
    sync_api.expect(page.locator("#detail article")).to_have_count(0)
    page.unroute("**/data/*")
    page.unroute("**/data/problems/*")
    page.keyboard.press("k")
    sync_api.expect(page.locator("#detail article").first).to_be_visible()
    sync_api.expect(page.get_by_role("alert")).to_be_hidden()
    page.close()


def test_who_types_in_the_form_is_not_interrupted(page: Any, data: tuple[str, Path]) -> None:
    page.goto(f"{data[0]}/data")
    sync_api.expect(chosen_row(page)).to_have_count(1)
    page.locator("input[name=low]").focus()
    page.keyboard.type("51")
    page.keyboard.press("Tab")
    page.keyboard.type("60")
    page.keyboard.press("Tab")
    sync_api.expect(page).to_have_url(re.compile("low=51&high=60"))
    sync_api.expect(page.locator("#list .note").first).to_have_text("20 chains")
    page.locator("input[name=words]").fill("red")
    page.locator("input[name=words]").press("Enter")
    sync_api.expect(page.locator("#detail mark").first).to_have_text("red")


def test_in_a_narrow_window_the_page_stays_where_it_is(page: Any, data: tuple[str, Path]) -> None:
    page.set_viewport_size({"width": 420, "height": 800})
    page.goto(f"{data[0]}/data?chain={15:016x}{0:016x}&problem={15:032x}")
    sync_api.expect(chosen_row(page)).to_have_count(1)
    sync_api.expect(page.locator("article.chosen")).to_have_count(1)
    page.keyboard.press("j")
    sync_api.expect(page.locator("article.chosen")).to_have_count(1)
    assert page.evaluate("window.scrollY") == 0 and chosen_row(page).bounding_box()["y"] < 800


def test_a_link_to_a_chain_far_down_shows_it(page: Any, data: tuple[str, Path]) -> None:
    page.goto(f"{data[0]}/data?chain={19:016x}{1:016x}&problem={19:032x}&stage=nonsense&tab=nonsense")
    sync_api.expect(chosen_row(page)).to_have_attribute("data-chain", f"{19:016x}{1:016x}")
    sync_api.expect(page.locator(".result")).to_have_count(2)
    page.get_by_role("button", name="From the first").click()
    sync_api.expect(page.locator(".result")).to_have_count(50)
    sync_api.expect(page).to_have_url(re.compile(f"chain={19:016x}{1:016x}"))
    sync_api.expect(page.locator("article.chosen")).to_have_count(1)


def test_a_link_to_a_chain_that_the_filters_leave_out_lists_all_that_they_do_not(page: Any, data: tuple[str, Path]) -> None:
    page.goto(f"{data[0]}/data?verdict=right&chain={15:016x}{1:016x}&problem={15:032x}")
    sync_api.expect(page.locator("article.chosen")).to_have_count(1)
    sync_api.expect(page.locator(".result")).to_have_count(40)
    sync_api.expect(page.get_by_role("button", name="From the first")).to_have_count(0)


def next_row_whose_details_wait(page: Any, url: str) -> list[Any]:
    """Choose the second row; the held request for its details comes into this list."""
    page.goto(f"{url}/data")
    sync_api.expect(page.locator("article.chosen")).to_have_count(1)
    held: list[Any] = []
    page.route("**/data/problems/*", lambda route: held.append(route))
    with page.expect_request("**/data/problems/*"):
        page.keyboard.press("j")
    return held


def test_a_verdict_comes_to_the_chosen_chain_and_not_to_the_one_still_shown(page: Any, data: tuple[str, Path]) -> None:
    held = next_row_whose_details_wait(page, data[0])
    page.keyboard.press("r")
    held.pop().continue_()
    sync_api.expect(chosen_row(page).locator(".by-hand")).to_have_count(1)
    sync_api.expect(page.locator(".result").first.locator(".by-hand")).to_have_count(0)
    page.keyboard.press("r")
    sync_api.expect(chosen_row(page).locator(".by-hand")).to_have_count(0)


def test_a_late_answer_is_not_shown_over_the_plots(page: Any, data: tuple[str, Path]) -> None:
    held = next_row_whose_details_wait(page, data[0])
    page.get_by_role("button", name="Plots").click()
    sync_api.expect(page.locator("figure svg").first).to_be_visible()
    with page.expect_response("**/data/problems/*") as answered:
        held.pop().continue_()
    answered.value.finished()
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator("figure svg").count() > 0 and page.locator("article").count() == 0


def test_who_chooses_a_round_by_the_keyboard_stays_there(page: Any, data: tuple[str, Path]) -> None:
    def two_rounds(route: Any) -> None:
        answer = route.fetch()
        found = answer.json()
        route.fulfill(response=answer, json=found | {"pairs": found["pairs"] | {"round2-data": 0}})

    page.route("**/data/facets*", two_rounds)
    page.goto(f"{data[0]}/data?tab=pairs")
    sync_api.expect(page.locator("article.chosen")).to_have_count(1)
    page.locator("select", has_text="round2-data").focus()
    page.keyboard.press("ArrowDown")
    sync_api.expect(page.locator("#list .note")).to_contain_text("0 pairs")
    sync_api.expect(page.locator("select", has_text="round2-data")).to_be_focused()


def test_a_server_that_does_not_begin_is_told_whatever_is_pressed(browser: Any, data: tuple[str, Path]) -> None:
    page = browser.new_page()
    page.route("**/data/facets*", lambda route: route.fulfill(status=502, body="<html>", content_type="text/html"))
    page.goto(f"{data[0]}/data")
    alert = page.get_by_role("alert")
    sync_api.expect(alert).to_contain_text("answered 502")
    page.get_by_role("button", name="Pairs").click()
    page.keyboard.press("/")
    sync_api.expect(alert).to_contain_text("answered 502")
    page.close()


@pytest.mark.skipif("PAGES_RUN" not in os.environ, reason="PAGES_RUN names no run")
def test_a_trained_pair_is_talked_to(page: Any, tmp_path: Path) -> None:
    run = Path(os.environ["PAGES_RUN"])
    problem = next(found for line in (run / "problems" / "test.jsonl").open() if (found := json.loads(line))["options"])
    [picture] = (run / "images").glob(f"*/{problem['images'][0]}.*")
    options = "".join(f"\n{letter}. {option}" for letter, option in zip("ABCDEFGH", problem["options"], strict=False))
    with command("serve", run) as (url, _):
        chat(page, url, problem["question"].replace("<image>", "").strip() + options, picture.read_bytes(), ("Pair", "Reasoner alone", "Direct answer"))
        for column in range(3):
            sync_api.expect(page.locator(".note").nth(column)).to_contain_text("tokens", timeout=60_000)
        page.locator("summary").first.click()
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=Path(os.environ.get("PAGES_SHOTS", tmp_path)) / "chat.png")


@pytest.mark.skipif("PAGES_RUN" not in os.environ, reason="PAGES_RUN names no run")
def test_a_runs_data_is_looked_through(page: Any, tmp_path: Path) -> None:
    """By the keyboard, through filters, pairs and plots, and back by the link."""
    shots = Path(os.environ.get("PAGES_SHOTS", tmp_path))
    with command("view", Path(os.environ["PAGES_RUN"])) as (url, _):
        page.set_viewport_size({"width": 1500, "height": 860})
        page.goto(f"{url}/data")
        chosen = page.locator(".result.chosen")
        sync_api.expect(page.locator("article.chain").first).to_be_visible()
        first = chosen.get_attribute("data-chain")
        page.keyboard.press("j")
        sync_api.expect(chosen).not_to_have_attribute("data-chain", first)
        page.keyboard.press("k")
        sync_api.expect(chosen).to_have_attribute("data-chain", first)
        page.keyboard.press("n")
        sync_api.expect(page.locator(".result")).to_have_count(100)
        page.locator("select[name=verdict]").select_option("wrong")
        sync_api.expect(page.locator(".result .verdict.right")).to_have_count(0)
        sync_api.expect(chosen).to_be_visible()
        page.locator("select[name=sort]").select_option("score")
        page.locator("select[name=verdict]").select_option("right")
        sync_api.expect(page.locator(".result .verdict.wrong")).to_have_count(0)
        sync_api.expect(chosen).to_be_visible()
        page.wait_for_load_state("networkidle")
        page.screenshot(path=shots / "data.png")
        link, title = page.url, page.locator("#detail .asked p").first.inner_text()
        flag = page.locator("article.chosen").get_by_role("button", name="Flag")
        for pressed in ("true", "false"):
            flag.click()
            sync_api.expect(flag).to_have_attribute("aria-pressed", pressed)
        page.get_by_role("button", name="Pairs").click()
        sync_api.expect(page.locator("h2.good")).to_be_visible()
        page.screenshot(path=shots / "pairs.png")
        page.get_by_role("button", name="Plots").click()
        sync_api.expect(page.locator("figure svg").first).to_be_visible()
        page.goto(link)
        sync_api.expect(page.locator("#detail .asked p").first).to_have_text(title)
        with page.expect_download() as download:
            page.get_by_role("link", name="Export selection").click()
        assert all(json.loads(line)["verdict"]["correct"] is True for line in Path(download.value.path()).read_text().splitlines())
