"""The pages in a real browser: `make pages`. PAGES_RUN=RUN talks to that run's pair too, and PAGES_SHOTS=FOLDER keeps pictures of it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.agents_stub import CHAIN, Agents
from benchmarks.served import command

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
